// Neurons, a vector of them at a time; currents of step t lie at current[t * stride].
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace transpike {
namespace {

struct Vector {
  const float *current;
  std::ptrdiff_t stride;
  Vec theta;
  Vec v;
};

inline Vec residual_potential(const Vector &a, int probe) {
  Vec v = a.v;
  for (int t = 0; t < probe; ++t) {
    const Vec u = v + load(a.current + t * a.stride);
    v = select(u >= a.theta, u - a.theta, u);
  }
  return v;
}

inline Vec calibrate_offsets(const Vector &a, const Rule &rule) {
  const Vec infinite = splat(__builtin_inff());
  Vec initial = a.v, rest{}, sent{};
  for (int iteration = 0; iteration < rule.iterations; ++iteration) {
    Vec v = initial, fired{}, lowest = infinite, highest = -infinite;
    for (int t = 0; t < rule.probe; ++t) {
      const Vec u = v + load(a.current + t * a.stride);
      const Mask fires = u >= a.theta;
      v = select(fires, u - a.theta, u);
      fired += select(fires, splat(1), Vec{});
      lowest = select(fires, smaller(v, lowest), lowest);
      highest = select(fires, highest, larger(v, highest));
    }
    if (iteration == 0) {
      rest = v;
      sent = fired;
    }
    const Vec residual = rest + (sent - fired) * a.theta; // Theorems 1 and 2, as in dense.hpp
    const Vec margin = rule.epsilon * a.theta;
    const Vec lower = larger(lowest + margin, a.theta);
    const Vec raise = larger(a.theta + margin - highest, a.theta);
    const Mask down = (residual < 0) & (fired > 0);
    const Mask up = (residual >= a.theta) & (fired < static_cast<float>(rule.probe));
    initial = initial + (select(up, raise, Vec{}) - select(down, lower, Vec{}));
  }
  return initial;
}

inline Vec count_expected(const Vector &a, int probe) {
  Vec total{};
  for (int t = 0; t < probe; ++t)
    total += load(a.current + t * a.stride);
  const Vec count = round_down((total + a.v) / a.theta);
  return smaller(larger(count, Vec{}), splat(static_cast<float>(probe)));
}

inline Vec choose_potential(const Vector &a, int probe, Vec *least) {
  const Vec infinite = splat(__builtin_inff());
  least[0] = -infinite;
  for (int j = 1; j < probe + 2; ++j)
    least[j] = infinite;
  Vec total{};
  for (int t = 0; t < probe; ++t) {
    total += load(a.current + t * a.stride);
    for (int j = t + 1; j > 0; --j)
      least[j] = smaller(larger(least[j - 1], static_cast<float>(j) * a.theta - total), least[j]);
  }
  const Vec wanted = count_expected(a, probe);
  Vec low = least[0], high = least[1];
  for (int j = 1; j <= probe; ++j) {
    const Mask here = wanted == static_cast<float>(j);
    low = select(here, least[j], low);
    high = select(here, least[j + 1], high);
  }
  Vec middle = (low + high) / 2;
  middle = select(low == -infinite, high - a.theta / 2, middle);
  middle = select(high == infinite, low + a.theta / 2, middle);
  return select((a.v >= low) & (a.v < high), a.v, middle);
}

// The potential that the neurons of a vector start with.
inline Vec start_of(const Vector &a, const Rule &rule, Vec *scratch) {
  switch (rule.schedule) {
  case Rule::kResidual:
    return residual_potential(a, rule.probe);
  case Rule::kOffset:
    return calibrate_offsets(a, rule);
  case Rule::kExact:
    return choose_potential(a, rule.probe, scratch);
  default:
    return a.v;
  }
}

// The spikes of one step, and the start of the next one.
template <bool kSoft> inline std::uint32_t spikes_of(Vec &v, Vec current, Vec theta) {
  v += current;
  return replace_reached(v, theta, kSoft ? v - theta : Vec{});
}

} // namespace
} // namespace transpike
