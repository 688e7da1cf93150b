// Memory that a thread keeps.
#pragma once

#include <cstddef>
#include <cstdlib>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace transpike {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t kGap = 64; // behind every buffer of an arena, for the sanitizer to see who writes beyond its end
#else
constexpr std::size_t kGap = 0;
#endif

// Memory of one thread that stays from stage to stage: fresh pages would cost more than a small stage.
class Arena {
public:
  ~Arena() { std::free(memory_); }

  // Makes room, or returns false; earlier contents are lost.
  bool reserve(std::size_t bytes) {
    used_ = 0;
    if (bytes > size_) {
      std::free(memory_);
      size_ = bytes / 64 * 64 + 64;
      memory_ = static_cast<char *>(aligned_alloc(64, size_));
      if (memory_ == nullptr) {
        size_ = 0;
        return false;
      }
    }
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(memory_, size_);
#endif
    return true;
  }
  template <typename T> static std::size_t bytes(std::ptrdiff_t count) {
    return (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64 + kGap;
  }
  template <typename T> T *take(std::ptrdiff_t count) {
    T *found = reinterpret_cast<T *>(memory_ + used_);
    used_ += bytes<T>(count);
#ifdef __SANITIZE_ADDRESS__
    const char *end = reinterpret_cast<const char *>(found + count);
    ASAN_POISON_MEMORY_REGION(end, static_cast<std::size_t>(memory_ + used_ - end));
#endif
    return found;
  }

private:
  char *memory_ = nullptr;
  std::size_t size_ = 0, used_ = 0;
};

} // namespace
} // namespace transpike
