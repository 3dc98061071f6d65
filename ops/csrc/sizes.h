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
  // Maps of one head of one batch item. No two of them share a pixel of the value or a point.
  int64_t maps() const { return batch * heads * static_cast<int64_t>(levels.size()); }
};

}  // namespace ms_deform_attn
