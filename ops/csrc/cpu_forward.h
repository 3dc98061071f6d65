// The forward kernel.
#pragma once

#include <algorithm>
#include <cstring>

#include "cpu_kernels.h"
#include "cpu_points.h"

namespace ms_deform_attn {
namespace MSDA_INSTRUCTIONS {

// Weighted sum of the corners of points [first, first + count).
template <typename T, int C>
MSDA_FUNCTION void gather(const T* value, Points<AccumulateOf<T>>& points, int64_t first, int64_t count, T* output) {
  using B = Block<T, C>;
  using Register = typename B::Register;
  // Several sums side by side keep the multipliers busy; too many do not fit into the registers.
  constexpr int kSums = B::kRegisters >= 8 ? 1 : B::kRegisters >= 4 ? 2 : 4;
  Register sums[kSums][B::kRegisters];
  for (auto& registers : sums) {
    for (auto& one : registers) one = Register{};
  }
  const int64_t* offsets[kCorners];
  const AccumulateOf<T>* shares[kCorners];
  for (int k = 0; k < kCorners; ++k) {
    offsets[k] = points.offset[k] + first;
    shares[k] = points.share[k] + first;
  }
  for (int64_t i = 0; i < count; ++i) {
    for (int k = 0; k < kCorners; ++k) {
      Register corner[B::kRegisters];
      B::load(value + offsets[k][i], corner);
      for (int r = 0; r < B::kRegisters; ++r) sums[k % kSums][r] += shares[k][i] * corner[r];
    }
  }
  for (int s = 1; s < kSums; ++s) {
    for (int r = 0; r < B::kRegisters; ++r) sums[0][r] += sums[s][r];
  }
  B::store(output, sums[0]);
}

// Asks for the corners of points [first, first + count) ahead of their use.
template <typename T>
MSDA_FUNCTION void prefetch(
    const T* value, const Points<AccumulateOf<T>>& points, int64_t first, int64_t count, int64_t channels
) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = first; i < first + count; ++i) {
    for (int k = 0; k < kCorners; ++k) {
      for (int64_t c = 0; c < channels; c += kLine) __builtin_prefetch(value + points.offset[k][i] + c);
    }
  }
}

// Asks for the locations and weights of a row, in which those of one head of one query lie, ahead of their use.
template <typename T>
MSDA_FUNCTION void prefetch_points(const ForwardData& data, int64_t row, int64_t samples) {
  const int64_t bytes = samples * (data.locations_as_value ? sizeof(T) : sizeof(AccumulateOf<T>));
  const char* locations = static_cast<const char*>(data.locations) + 2 * row * bytes;
  const char* weights = static_cast<const char*>(data.weights) + row * bytes;
  for (int64_t i = 0; i < 2 * bytes; i += 64) __builtin_prefetch(locations + i);
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(weights + i);
}

// Rows of the output one after the other, from the values where they lie.
template <typename T>
MSDA_TARGET void forward_rows(const Sizes& sizes, const ForwardData& data, int64_t begin, int64_t end) {
  const int64_t samples = sizes.samples(), heads = sizes.heads, channels = sizes.channels;
  const int64_t stride = heads * channels;
  Points<AccumulateOf<T>> points(heads * samples);
  for (int64_t i = 0; i < heads * samples; ++i) {
    const Level& level = sizes.levels[i % samples / sizes.points];
    points.height[i] = level.height;
    points.width[i] = level.width;
    points.origin[i] = level.start * stride + i / samples * channels;
  }
  for (int64_t row = begin; row < end; ++row) {
    const T* value = static_cast<const T*>(data.value) + row / sizes.queries * sizes.positions * stride;
    T* output = static_cast<T*>(data.output) + row * stride;
    load_points<T>(
        data.locations, data.weights, data.locations_as_value, row * heads * samples, heads * samples, points, 0
    );
    points.find(heads * samples, stride, static_cast<const T*>(data.zeros) - value);
    for (int64_t head = 0; head < heads; ++head) {
      if (head + 1 < heads) prefetch(value, points, (head + 1) * samples, samples, channels);
#define MSDA_STEP(C) gather<T, C>(value + channel, points, head * samples, samples, output + head * channels + channel)
      MSDA_FOR_CHANNEL_BLOCKS(channels, MSDA_STEP);
#undef MSDA_STEP
    }
  }
}

// Head by head, from a copy of the head's maps: pixels that follow each other closely share the cache better than
// pixels between which those of the other heads lie.
template <typename T>
MSDA_TARGET void forward_heads(const Sizes& sizes, const ForwardData& data, int64_t begin, int64_t end) {
  const int64_t samples = sizes.samples(), heads = sizes.heads, channels = sizes.channels, queries = sizes.queries;
  const int64_t stride = heads * channels;
  const int64_t at_once = std::max<int64_t>(1, 8 * Points<AccumulateOf<T>>::kLanes / std::max<int64_t>(1, samples));
  Points<AccumulateOf<T>> points(at_once * samples);
  for (int64_t i = 0; i < at_once * samples; ++i) {
    const Level& level = sizes.levels[i % samples / sizes.points];
    points.height[i] = level.height;
    points.width[i] = level.width;
    points.origin[i] = level.start * channels;
  }
  Array<T> map((sizes.positions + 1) * channels);
  int64_t copied = -1;
  for (int64_t index = begin; index < end;) {
    const int64_t query = index % queries, head = index / queries % heads, item = index / queries / heads;
    const int64_t count = std::min({at_once, queries - query, end - index});
    if (index / queries != copied) {
      copied = index / queries;
      const T* value = static_cast<const T*>(data.value) + item * sizes.positions * stride + head * channels;
      T* to = map.data();
      for (int64_t i = 0; i < sizes.positions; ++i, to += channels, value += stride) std::memcpy(to, value, channels * sizeof(T));
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = (item * queries + query + i) * heads + head;
      prefetch_points<T>(data, row + at_once * heads, samples);
      load_points<T>(data.locations, data.weights, data.locations_as_value, row * samples, samples, points, i * samples);
    }
    points.find(count * samples, channels, sizes.positions * channels);
    for (int64_t i = 0; i < count; ++i) {
      T* output = static_cast<T*>(data.output) + ((item * queries + query + i) * heads + head) * channels;
#define MSDA_STEP(C) gather<T, C>(map.data() + channel, points, i * samples, samples, output + channel)
      MSDA_FOR_CHANNEL_BLOCKS(channels, MSDA_STEP);
#undef MSDA_STEP
    }
    index += count;
  }
}

template <typename T>
MSDA_TARGET void forward(const Sizes& sizes, const ForwardData& data, int64_t begin, int64_t end) {
  data.prefetch ? forward_rows<T>(sizes, data, begin, end) : forward_heads<T>(sizes, data, begin, end);
}

}  // namespace MSDA_INSTRUCTIONS
}  // namespace ms_deform_attn
