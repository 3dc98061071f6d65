// Scratch memory for one head's maps.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu_points.h"

namespace ms_deform_attn {
namespace MSDA_INSTRUCTIONS {

// The values of one head's maps, pixel by pixel, for the forward pass. One more pixel, of value zero, stands for all that
// is outside.
template <typename T>
class HeadCopy {
 public:
  HeadCopy(int64_t pixels, int64_t channels)
      : pixels_(pixels), channels_(channels), values_((pixels + 1) * channels) {
    std::fill_n(values_.data() + pixels * channels, channels, T(0));
  }

  const T* values() const { return values_.data(); }

  // From a tensor in which pixels are `pitch` apart, too far for the processor to guess which one is next.
  MSDA_FUNCTION void load(const T* from, int64_t pitch) {
    constexpr int64_t kLine = 64 / sizeof(T), kAhead = 16;
    T* to = values_.data();
    for (int64_t pixel = 0; pixel < pixels_; ++pixel, from += pitch, to += channels_) {
      for (int64_t c = 0; c < channels_; c += kLine) __builtin_prefetch(from + kAhead * pitch + c);
#define MSDA_STEP(C) std::memcpy(to + channel, from + channel, C * sizeof(T))
      MSDA_FOR_CHANNEL_BLOCKS(channels_, MSDA_STEP);
#undef MSDA_STEP
    }
  }

 private:
  int64_t pixels_, channels_;
  Array<T> values_;
};

// Values and gradients of pixels of one head's maps, for the backward pass, in the type sums are held in. Each has a
// slot, its value followed by its gradient. Slot 0, of value zero, stands for all that is outside.
template <typename T>
class Slots {
 public:
  using Acc = AccumulateOf<T>;

  Slots(int64_t pixels, int64_t channels) : channels_(channels), numbers_((pixels + 1) * stride()) {
    std::fill_n(numbers_.data(), stride(), Acc(0));
  }

  int64_t stride() const { return 2 * channels_; }
  Acc* values() const { return numbers_.data(); }

  // Takes the value of a pixel, with no gradient yet.
  MSDA_FUNCTION void load(int64_t slot, const T* from) {
    Acc* to = values() + slot * stride();
    std::fill_n(to + channels_, channels_, Acc(0));
#define MSDA_STEP(C) widen_block<T, C>(from + channel, to + channel)
    MSDA_FOR_CHANNEL_BLOCKS(channels_, MSDA_STEP);
#undef MSDA_STEP
  }
  MSDA_FUNCTION void store_gradient(int64_t slot, T* to) const {
    const Acc* from = values() + slot * stride() + channels_;
#define MSDA_STEP(C) narrow_block<T, C>(from + channel, to + channel)
    MSDA_FOR_CHANNEL_BLOCKS(channels_, MSDA_STEP);
#undef MSDA_STEP
  }

 private:
  int64_t channels_;
  Array<Acc> numbers_;
};

// All pixels, in their order from slot 1 on.
template <typename T>
class WholeMaps {
 public:
  WholeMaps(int64_t pixels, int64_t channels) : slots_(pixels, channels) {}
  const Slots<T>& slots() const { return slots_; }

  // From and to tensors in which pixels are `pitch` apart.
  MSDA_FUNCTION void load(int64_t pixels, const T* from, int64_t pitch) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel, from += pitch) slots_.load(pixel + 1, from);
  }
  MSDA_FUNCTION void store_gradients(int64_t pixels, T* to, int64_t pitch) const {
    for (int64_t pixel = 0; pixel < pixels; ++pixel, to += pitch) slots_.store_gradient(pixel + 1, to);
  }
  template <typename Found>
  MSDA_FUNCTION void find(Found& points, int64_t count, const T*, int64_t) {
    points.find(count, 0, 1);
  }

 private:
  Slots<T> slots_;
};

// The few pixels that points touch, in the order in which they do.
template <typename T>
class TouchedPixels {
 public:
  TouchedPixels(int64_t pixels, int64_t most_touched, int64_t channels)
      : slots_(most_touched, channels), slot_of_pixel_(pixels) {
    std::fill_n(slot_of_pixel_.data(), pixels, int32_t{0});
    touched_.reserve(most_touched);
  }
  const Slots<T>& slots() const { return slots_; }

  // Points of which the pixels are slots. A slot that is new takes its value.
  template <typename Found>
  MSDA_FUNCTION void find(Found& points, int64_t count, const T* from, int64_t pitch) {
    points.find(count, -1, 0);
    for (int64_t i = 0; i < count; ++i) {
      for (int k = 0; k < kCorners; ++k) {
        auto& pixel = points.pixel[k][i];
        pixel = pixel < 0 ? 0 : touch(pixel, from + pixel * pitch);
      }
    }
  }
  // Forgets the pixels.
  MSDA_FUNCTION void store_gradients(T* to, int64_t pitch) {
    int64_t slot = 0;
    for (int64_t pixel : touched_) {
      slots_.store_gradient(++slot, to + pixel * pitch);
      slot_of_pixel_.data()[pixel] = 0;
    }
    touched_.clear();
  }

 private:
  MSDA_FUNCTION int32_t touch(int64_t pixel, const T* from) {
    int32_t& slot = slot_of_pixel_.data()[pixel];
    if (slot == 0) {
      touched_.push_back(pixel);
      slot = static_cast<int32_t>(touched_.size());
      slots_.load(slot, from);
    }
    return slot;
  }

  Slots<T> slots_;
  Array<int32_t> slot_of_pixel_;  // 0: none yet
  std::vector<int64_t> touched_;
};

}  // namespace MSDA_INSTRUCTIONS
}  // namespace ms_deform_attn
