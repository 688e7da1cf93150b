// A pool of threads that sleep between runs.
//
// A run is open to as many free threads as it wants; it never waits for one that has not come. So runs of several
// callers share the pool, runs may begin inside runs, and none of them can block another. A process that was forked has
// none of its parent's threads: it begins with a pool of its own.
#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#define TRANSPIKE_POSIX
#endif

namespace transpike {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

constexpr microseconds kIdleSpin{400};  // of a thread without a run: about the time between two small ones
constexpr microseconds kWaitSpin{40};   // of a thread that waits for another one of its run
constexpr microseconds kPatience{20000}; // of the calling thread between two looks for signals

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

// Looks for a while; whether it was found.
template <typename Found> bool spin(microseconds time, Found found) {
  const auto until = Clock::now() + time;
  do
    for (int i = 0; i < 32; ++i) {
      if (found())
        return true;
      pause();
    }
  while (Clock::now() < until);
  return false;
}

struct Run : Team {
  Run(const Work &work, bool (*interrupted)()) : work(work), interrupted(interrupted) {}

  const Work &work;
  bool (*interrupted)();
  bool given_up = false; // by the calling thread
  Clock::time_point looked = Clock::now();

  std::mutex mutex; // of those who sleep, and of the exception
  std::condition_variable told;
  std::exception_ptr exception;

  int places = 0;             // for further threads
  std::atomic<int> inside{0}; // other threads at work

  void stop_all() {
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    wake(*this);
  }

  void take_part(bool calling) {
    Member member{this, calling};
    try {
      work(member);
    } catch (...) {
      {
        const std::lock_guard<std::mutex> guard(mutex);
        if (!exception)
          exception = std::current_exception();
      }
      stop_all();
    }
  }
};

class Pool {
public:
  // Lets up to `helpers` threads take part in a run.
  void open(Run &run, int helpers) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (threads_ < helpers && start())
      ++threads_;
    run.places = helpers;
    open_.push_back(&run);
    places_ += helpers;
    wake_some();
  }

  // Lets no further threads in, and waits for those that take part.
  void close(Run &run) {
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      const auto found = std::find(open_.begin(), open_.end(), &run);
      if (found != open_.end()) {
        places_ -= run.places;
        open_.erase(found);
      }
    }
    const auto gone = [&] { return run.inside == 0; };
    if (spin(kWaitSpin, gone))
      return;
    Member member{&run, true};
    std::unique_lock<std::mutex> lock(mutex_);
    ++waiting_;
    while (!left_.wait_for(lock, kPatience, gone)) {
      lock.unlock();
      look_for_signals(member);
      lock.lock();
    }
    --waiting_;
  }

private:
  bool start() {
#ifdef TRANSPIKE_POSIX
    sigset_t all, before; // signals are for the threads of Python
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
#endif
    bool found = true;
    try {
      std::thread started([this] { serve(); });
#ifdef __linux__
      pthread_setname_np(started.native_handle(), "transpike"); // as debuggers and top show it
#endif
      started.detach();
    } catch (const std::system_error &) {
      found = false; // there are as many as the system gives
    }
#ifdef TRANSPIKE_POSIX
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
#endif
    return found;
  }

  // Each thread that comes wakes two more: the calling one shall not spend its time on it.
  void wake_some() {
    for (int i = 0; i < std::min({2, places_.load(), asleep_}); ++i)
      wake_.notify_one();
  }

  [[noreturn]] void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      if (open_.empty()) {
        lock.unlock();
        spin(kIdleSpin, [&] { return places_.load(std::memory_order_relaxed) > 0; });
        lock.lock();
      }
      ++asleep_;
      wake_.wait(lock, [&] { return !open_.empty(); });
      --asleep_;
      Run &run = *open_.front();
      if (--run.places == 0)
        open_.erase(open_.begin());
      --places_;
      ++run.inside;
      wake_some();
      lock.unlock();
      run.take_part(false);
      lock.lock();
      if (--run.inside == 0 && waiting_ > 0) // then the run may be gone
        left_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, left_;
  std::vector<Run *> open_;    // runs that have places
  std::atomic<int> places_{0}; // of all of them
  int threads_ = 0, asleep_ = 0, waiting_ = 0;
};

// Never deleted, since its threads never end.
std::atomic<Pool *> current{[] {
#ifdef TRANSPIKE_POSIX
  pthread_atfork(nullptr, nullptr, [] { current = new Pool; });
#endif
  return new Pool;
}()};

Run &run_of(Team &team) { return static_cast<Run &>(team); }

} // namespace

void look_for_signals(Member &member) {
  Run &run = run_of(*member.team);
  const auto now = Clock::now();
  if (run.interrupted == nullptr || run.given_up || now - run.looked < kPatience)
    return;
  run.given_up = run.interrupted();
  run.looked = Clock::now();
  if (run.given_up)
    run.stop_all();
}

void wait_for_count(Member &member, const std::ptrdiff_t *count, std::ptrdiff_t wanted) {
  Run &run = run_of(*member.team);
  const auto enough = [&] { return __atomic_load_n(count, __ATOMIC_SEQ_CST) >= wanted || stopped(member); };
  if (spin(kWaitSpin, enough))
    return;
  std::unique_lock<std::mutex> lock(run.mutex);
  __atomic_fetch_add(&run.asleep, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(count, __ATOMIC_SEQ_CST) < wanted && __atomic_load_n(&run.stop, __ATOMIC_SEQ_CST) == 0)
    if (!member.calling) {
      run.told.wait(lock);
    } else if (run.told.wait_for(lock, kPatience) == std::cv_status::timeout) {
      lock.unlock();
      look_for_signals(member);
      lock.lock();
    }
  __atomic_fetch_sub(&run.asleep, 1, __ATOMIC_SEQ_CST);
}

void wake(Team &team) {
  Run &run = run_of(team);
  { const std::lock_guard<std::mutex> guard(run.mutex); } // who has looked and not yet slept
  run.told.notify_all();
}

bool run_on_threads(int count, const Work &work, bool (*interrupted)()) {
  Run run(work, interrupted);
  if (count <= 1) {
    run.take_part(true);
  } else {
    Pool &pool = *current;
    pool.open(run, count - 1);
    run.take_part(true);
    pool.close(run);
  }
  if (run.given_up)
    return false;
  if (run.exception)
    std::rethrow_exception(run.exception);
  return true;
}

} // namespace transpike
