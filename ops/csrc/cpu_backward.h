// The backward kernel.
#pragma once

#include <algorithm>

#include "cpu_head_maps.h"
#include "cpu_kernels.h"
#include "cpu_sum_lanes.h"

namespace ms_deform_attn {
namespace MSDA_INSTRUCTIONS {

// For points [first, first + count), all of one query: products of the output's gradient with the values of their
// corners, and the gradients of those values. A block that is not the first adds to the products.
template <typename T, int C>
MSDA_FUNCTION void scatter(
    const T* grad_output, AccumulateOf<T>* map, int64_t stride, const Points<AccumulateOf<T>>& points, int64_t first,
    int64_t count, bool add
) {
  using B = Block<T, C>;
  using Acc = AccumulateOf<T>;
  using Register = typename B::Register;
  using Corners = Vector<Acc, kCorners>;
  const Acc* shares[kCorners];
  const typename Points<Acc>::Integer* pixels[kCorners];
  for (int k = 0; k < kCorners; ++k) {
    shares[k] = points.share[k];
    pixels[k] = points.pixel[k];
  }
  Acc* all_products = points.products;
  Register gradient[B::kRegisters];
  B::load(grad_output, gradient);
  for (int64_t i = first; i < first + count; ++i) {
    Acc *corners[kCorners], weights[kCorners];
    Register products[kCorners];
    for (int k = 0; k < kCorners; ++k) {
      corners[k] = map + pixels[k][i] * stride;
      weights[k] = shares[k][i];
      products[k] = gradient[0] * load_vector<Register>(corners[k]);
      for (int r = 1; r < B::kRegisters; ++r)
        products[k] += gradient[r] * load_vector<Register>(corners[k] + r * B::kLanes);
    }
    Corners sums = sum_lanes<Acc, B::kLanes>(products);
    if (add) sums += load_vector<Corners>(all_products + kCorners * i);
    store_vector(all_products + kCorners * i, sums);
    for (int k = 0; k < kCorners; ++k) {
      Acc* grad_value = corners[k] + stride / 2;
      for (int r = 0; r < B::kRegisters; ++r, grad_value += B::kLanes) {
        store_vector(grad_value, Register(load_vector<Register>(grad_value) + weights[k] * gradient[r]));
      }
    }
  }
}

// Turns the products of points [0, count) into gradients of the locations and of the attention weights, which take the
// places of both.
template <typename Real>
MSDA_FUNCTION void finish_gradients(Points<Real>& points, int64_t count) {
  using Lanes = typename Points<Real>::RealLanes;
  using IntegerLanes = typename Points<Real>::IntegerLanes;
  constexpr int kLanes = Points<Real>::kLanes;
  for (int64_t i = 0; i < count; i += kLanes) {
    alignas(64) Real columns[kCorners][kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int k = 0; k < kCorners; ++k) columns[k][lane] = points.products[kCorners * (i + lane) + k];
    }
    Lanes products[kCorners];
    for (int k = 0; k < kCorners; ++k) products[k] = load_vector<Lanes>(columns[k]);
    const auto gradient = point_gradient(
        load_vector<Lanes>(points.fraction_x + i), load_vector<Lanes>(points.fraction_y + i),
        load_vector<Lanes>(points.weight + i), products,
        Lanes(__builtin_convertvector(load_vector<IntegerLanes>(points.height + i), Lanes)),
        Lanes(__builtin_convertvector(load_vector<IntegerLanes>(points.width + i), Lanes))
    );
    store_vector(points.location_x + i, gradient.location_x);
    store_vector(points.location_y + i, gradient.location_y);
    store_vector(points.weight + i, gradient.attention_weight);
  }
}

// Some neighbouring levels of one head of one batch item: no two of these share a value or a point.
template <typename T>
struct HeadTask {
  const Sizes& sizes;
  const BackwardData& data;
  int64_t item, head, first_level, last_level;  // the last one is not included

  HeadTask(const Sizes& sizes_, const BackwardData& data_, int64_t index) : sizes(sizes_), data(data_) {
    const auto levels = static_cast<int64_t>(sizes.levels.size());
    const int64_t groups = levels / data.levels_at_once;
    first_level = index % groups * data.levels_at_once;
    last_level = first_level + data.levels_at_once;
    head = index / groups % sizes.heads;
    item = index / groups / sizes.heads;
  }

  int64_t first_pixel() const { return sizes.levels[first_level].start; }
  int64_t pixels() const {
    const Level& last = sizes.levels[last_level - 1];
    return last.start + int64_t{last.height} * last.width - first_pixel();
  }
  int64_t pitch() const { return sizes.heads * sizes.channels; }  // from a pixel to the next
  int64_t value_offset() const {
    return ((item * sizes.positions + first_pixel()) * sizes.heads + head) * sizes.channels;
  }
  const T* value() const { return static_cast<const T*>(data.value) + value_offset(); }
  T* grad_value() const { return static_cast<T*>(data.grad_value) + value_offset(); }
  int64_t row(int64_t query) const { return (item * sizes.queries + query) * sizes.heads + head; }
  int64_t points_of_query() const { return (last_level - first_level) * sizes.points; }
  int64_t point_offset(int64_t query) const { return row(query) * sizes.samples() + first_level * sizes.points; }
};

// Many points at a time fill the registers, few keep what is found in the cache.
template <typename T>
int64_t queries_at_once(int64_t points_of_query) {
  return std::max<int64_t>(1, 8 * Points<AccumulateOf<T>>::kLanes / std::max<int64_t>(1, points_of_query));
}

// Queries [first, last) of a task.
template <typename T, typename Pixels>
MSDA_FUNCTION void backward_queries(
    const HeadTask<T>& task, Pixels& pixels, Points<AccumulateOf<T>>& points, int64_t first, int64_t last
) {
  using Acc = AccumulateOf<T>;
  const BackwardData& data = task.data;
  const int64_t channels = task.sizes.channels, count = task.points_of_query();
  for (int64_t query = first; query < last; ++query) {
    load_points<T>(
        data.locations, data.weights, data.locations_as_value, task.point_offset(query), count, points,
        (query - first) * count
    );
  }
  pixels.find(points, (last - first) * count, task.value(), task.pitch());
  const Slots<T>& slots = pixels.slots();
  for (int64_t query = first; query < last; ++query) {
    const T* grad_output = static_cast<const T*>(data.grad_output) + task.row(query) * channels;
#define MSDA_STEP(C)                                                                                               \
  scatter<T, C>(                                                                                                   \
      grad_output + channel, slots.values() + channel, slots.stride(), points, (query - first) * count, count, channel > 0 \
  )
    MSDA_FOR_CHANNEL_BLOCKS(channels, MSDA_STEP);
#undef MSDA_STEP
  }
  finish_gradients(points, (last - first) * count);
  for (int64_t query = first; query < last; ++query) {
    const int64_t from = (query - first) * count, to = task.point_offset(query);
    if (data.locations_as_value) {
      store_points<T>(points, from, count, data.grad_locations, data.grad_weights, to);
    } else {
      store_points<Acc>(points, from, count, data.grad_locations, data.grad_weights, to);
    }
  }
}

template <typename T, typename Pixels>
MSDA_FUNCTION void backward_task(const HeadTask<T>& task, Pixels& pixels, Points<AccumulateOf<T>>& points) {
  const Sizes& sizes = task.sizes;
  const int64_t count = task.points_of_query(), at_once = queries_at_once<T>(count);
  points.set_levels(&sizes.levels[task.first_level], sizes.points, count, task.first_pixel());
  for (int64_t query = 0; query < sizes.queries; query += at_once) {
    backward_queries(task, pixels, points, query, std::min(query + at_once, sizes.queries));
  }
}

template <typename T>
MSDA_TARGET void backward(const Sizes& sizes, const BackwardData& data, int64_t begin, int64_t end) {
  int64_t pixels = 0;
  for (int64_t index = begin; index < end; ++index)
    pixels = std::max(pixels, HeadTask<T>(sizes, data, index).pixels());
  const int64_t count = data.levels_at_once * sizes.points;
  Points<AccumulateOf<T>> points(queries_at_once<T>(count) * count);
  if (data.sparse) {
    TouchedPixels<T> touched(pixels, std::min(pixels, kCorners * sizes.queries * count), sizes.channels);
    for (int64_t index = begin; index < end; ++index) {
      const HeadTask<T> task(sizes, data, index);
      backward_task(task, touched, points);
      touched.store_gradients(task.grad_value(), task.pitch());
    }
  } else {
    WholeMaps<T> maps(pixels, sizes.channels);
    for (int64_t index = begin; index < end; ++index) {
      const HeadTask<T> task(sizes, data, index);
      maps.load(task.pixels(), task.value(), task.pitch());
      backward_task(task, maps, points);
      maps.store_gradients(task.pixels(), task.grad_value(), task.pitch());
    }
  }
}

}  // namespace MSDA_INSTRUCTIONS
}  // namespace ms_deform_attn
