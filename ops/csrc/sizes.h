// The sizes of one call, checked, for the kernels of both devices.
#pragma once

#include <cstdint>
#include <vector>

namespace ms_deform_attn {

struct Level {
  int32_t height, width;
  int64_t start;  // position of its first pixel among all levels
};

struct Sizes {
  int64_t batch, positions, heads, channels, queries, points;
  std::vector<Level> levels;

  int64_t samples() const { return static_cast<int64_t>(levels.size()) * points; }  // of one query and head
};

}  // namespace ms_deform_attn
