// Sums across the lanes of vector registers.
#pragma once

#include <utility>

#include "cpu_lanes.h"
#include "cpu_vector.h"

namespace ms_deform_attn {
namespace MSDA_INSTRUCTIONS {

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
