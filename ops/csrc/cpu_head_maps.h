// Scratch memory for one head's maps in the backward pass.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "cpu_points.h"

namespace ms_deform_attn {
namespace MSDA_INSTRUCTIONS {

// The values and the gradients of the values of one map, pixel by pixel, in the type sums are held in. A pixel's value
// is followed by its gradient. One more pixel, of value zero, stands for all that is outside.
template <typename T>
class Map {
 public:
  using Acc = AccumulateOf<T>;

  Map(int64_t pixels, int64_t channels)
      : channels_(channels), numbers_((pixels + 1) * 2 * channels), is_touched_(new bool[pixels]()) {}

  int64_t stride() const { return 2 * channels_; }
  Acc* value(int64_t pixel) const { return numbers_.data() + pixel * 2 * channels_; }
  Acc* gradient(int64_t pixel) const { return value(pixel) + channels_; }

  // Takes the value of a pixel, with no gradient yet.
  MSDA_FUNCTION void load_value(int64_t pixel, const T* from) {
    Acc* to = value(pixel);
    std::fill_n(to + channels_, channels_, Acc(0));
#define MSDA_STEP(C) widen_block<T, C>(from + channel, to + channel)
    MSDA_FOR_CHANNEL_BLOCKS(channels_, MSDA_STEP);
#undef MSDA_STEP
  }
  MSDA_FUNCTION void store_gradient(int64_t pixel, T* to) const {
    const Acc* from = gradient(pixel);
#define MSDA_STEP(C) narrow_block<T, C>(from + channel, to + channel)
    MSDA_FOR_CHANNEL_BLOCKS(channels_, MSDA_STEP);
#undef MSDA_STEP
  }
  MSDA_FUNCTION void clear_outside(int64_t pixels) { std::fill_n(value(pixels), 2 * channels_, Acc(0)); }

  // All pixels, from and to a tensor in which they are `pitch` apart.
  MSDA_FUNCTION void load_values(int64_t pixels, const T* from, int64_t pitch) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel) load_value(pixel, from + pixel * pitch);
  }
  MSDA_FUNCTION void store_gradients(int64_t pixels, T* to, int64_t pitch) const {
    for (int64_t pixel = 0; pixel < pixels; ++pixel) store_gradient(pixel, to + pixel * pitch);
  }

  // The same for a few pixels, those that are touched.
  MSDA_FUNCTION void touch_value(int64_t pixel, const T* from, int64_t pitch) {
    if (is_touched_[pixel]) return;
    is_touched_[pixel] = true;
    touched_.push_back(pixel);
    load_value(pixel, from + pixel * pitch);
  }
  MSDA_FUNCTION void store_touched_gradients(T* to, int64_t pitch) {
    for (int64_t pixel : touched_) {
      store_gradient(pixel, to + pixel * pitch);
      is_touched_[pixel] = false;
    }
    touched_.clear();
  }

 private:
  int64_t channels_;
  Array<Acc> numbers_;
  std::unique_ptr<bool[]> is_touched_;
  std::vector<int64_t> touched_;
};

}  // namespace MSDA_INSTRUCTIONS
}  // namespace ms_deform_attn
