// Sums across the lanes of vector registers.
#pragma once

#include <type_traits>
#include <utility>

#include "cpu_vector.h"

namespace ms_deform_attn {
namespace MSDA_INSTRUCTIONS {

// Lane i of the result is lane Pattern::source(i) of a followed by b.
template <typename Pattern, typename V, int... kLane>
MSDA_FUNCTION auto pick_lanes(const V& a, const V& b, std::integer_sequence<int, kLane...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, Pattern::source(kLane)...);
#else
  using T = std::remove_reference_t<decltype(a[0])>;
  Vector<std::remove_cv_t<T>, sizeof...(kLane)> result;
  constexpr int kLanes = sizeof(V) / sizeof(T);
  for (int lane = 0; lane < static_cast<int>(sizeof...(kLane)); ++lane) {
    const int from = Pattern::source(lane);
    result[lane] = from < kLanes ? a[from] : b[from - kLanes];
  }
  return result;
#endif
}

// Both hold groups of kSize lanes. The halves of each group are added, which leaves twice as many groups in one
// register.
template <int kSize, bool kUpper>
struct HalvesOfGroups {
  static constexpr int source(int lane) {
    return lane / (kSize / 2) * kSize + lane % (kSize / 2) + (kUpper ? kSize / 2 : 0);
  }
};
template <int kSize, typename T, int N>
MSDA_FUNCTION Vector<T, N> fold(const Vector<T, N>& a, const Vector<T, N>& b) {
  constexpr auto lanes = std::make_integer_sequence<int, N>{};
  return pick_lanes<HalvesOfGroups<kSize, false>>(a, b, lanes) + pick_lanes<HalvesOfGroups<kSize, true>>(a, b, lanes);
}

template <int kDistance>
struct Neighbour {
  static constexpr int source(int lane) { return lane ^ kDistance; }
};
template <int kStep>
struct Every {
  static constexpr int source(int lane) { return lane * kStep; }
};

// The sums of the lanes of each of four registers.
template <typename T, int N>
MSDA_FUNCTION Vector<T, 4> sum_lanes(const Vector<T, N> (&registers)[4]) {
  if constexpr (N < 4) {
    Vector<T, 4> sums = {registers[0][0], registers[1][0], registers[2][0], registers[3][0]};
    for (int lane = 1; lane < N; ++lane) {
      for (int i = 0; i < 4; ++i) sums[i] += registers[i][lane];
    }
    return sums;
  } else {
    constexpr auto lanes = std::make_integer_sequence<int, N>{};
    auto quarters =
        fold<N / 2, T, N>(fold<N, T, N>(registers[0], registers[1]), fold<N, T, N>(registers[2], registers[3]));
    if constexpr (N >= 16) quarters += pick_lanes<Neighbour<2>>(quarters, quarters, lanes);
    if constexpr (N >= 8) quarters += pick_lanes<Neighbour<1>>(quarters, quarters, lanes);
    return pick_lanes<Every<N / 4>>(quarters, quarters, std::make_integer_sequence<int, 4>{});
  }
}

}  // namespace MSDA_INSTRUCTIONS
}  // namespace ms_deform_attn
