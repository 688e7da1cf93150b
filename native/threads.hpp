// The threads of the kernels: one small pool for the whole process.
#pragma once

#include <functional>

#include "team.hpp"

namespace transpike {

using Work = std::function<void(Member &)>;

// Runs `work` on the calling thread and on at most `count` - 1 others, those that are free; returns when all have
// returned. The work is dealt out by what the threads share (take_turns), so it is done however many come. If one throws,
// the others stop, and the first exception is thrown again here. `interrupted` is asked on the calling thread now and
// then: if it says true all stop, and the answer is false.
bool run_on_threads(int count, const Work &work, bool (*interrupted)());

} // namespace transpike
