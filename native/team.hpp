// The threads of one run as the kernels see them: turns that they take, and waiting for each other (threads.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

namespace transpike {

// What the threads of a run share.
struct Team {
  int stop = 0;   // whether all shall return at once
  int asleep = 0; // how many wait for others and have stopped to look
};

// One of them.
struct Member {
  Team *team;
  bool calling;             // the one that began the run
  std::uint64_t looked = 0; // when it last looked for signals
};

constexpr std::ptrdiff_t kLine = 64; // bytes that travel together between the caches of two threads

// Looks whether the run shall end, every few milliseconds; for the calling thread.
void look_for_signals(Member &member);
// Waits until a count has become as large as `wanted`, or the run shall end.
void wait_for_count(Member &member, const std::ptrdiff_t *count, std::ptrdiff_t wanted);
// Wakes those that are asleep.
void wake(Team &team);

namespace { // every instruction set has its own copy

// Whether to return at once; to be asked before each piece of work.
inline bool stopped(Member &member) {
  if (member.calling) {
#if defined(__x86_64__)
    constexpr std::uint64_t kSeldom = 1 << 25; // cycles, some ten milliseconds
    const std::uint64_t now = __builtin_ia32_rdtsc();
    if (now - member.looked > kSeldom) {
      member.looked = now;
      look_for_signals(member);
    }
#else
    look_for_signals(member);
#endif
  }
  return __atomic_load_n(&member.team->stop, __ATOMIC_RELAXED) != 0;
}

// Adds to a count for which others may wait.
inline void raise_count(Member &member, std::ptrdiff_t *count, std::ptrdiff_t by) {
  __atomic_fetch_add(count, by, __ATOMIC_SEQ_CST); // before the look: who falls asleep looks in the other order
  if (__atomic_load_n(&member.team->asleep, __ATOMIC_SEQ_CST) != 0)
    wake(*member.team);
}

// Takes turns 0 .. count - 1, `chunk` at a time, until the threads have taken all or the run shall end:
// `turns(begin, end)`. `next` is the turn that nobody has taken.
template <typename Turns>
void take_turns(Member &member, std::ptrdiff_t *next, std::ptrdiff_t count, std::ptrdiff_t chunk, Turns turns) {
  while (!stopped(member)) {
    const std::ptrdiff_t begin = __atomic_fetch_add(next, chunk, __ATOMIC_RELAXED);
    if (begin >= count)
      return;
    turns(begin, begin + chunk < count ? begin + chunk : count);
  }
}

} // namespace
} // namespace transpike
