// The CPU kernels, compiled once for each instruction set by the file that includes this one, which defines
//   MSDA_INSTRUCTIONS    name of the instruction set, a namespace
//   MSDA_TARGET          attribute that lets a function use it
//   MSDA_REGISTER_BYTES  size of its vector registers
#define MSDA_FUNCTION inline __attribute__((always_inline)) MSDA_TARGET
#define MSDA_INLINE MSDA_FUNCTION

#include "cpu_kernels.h"
#include "cpu_vector.h"
#include "sampling_point.h"

#include <algorithm>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace ms_deform_attn {
namespace MSDA_INSTRUCTIONS {

constexpr std::align_val_t kCacheLine{64};

// Memory that starts with a cache line, so that no register is loaded from two.
template <typename T>
class Array {
 public:
  explicit Array(int64_t size)
      : data_(static_cast<T*>(::operator new(std::max<int64_t>(size, 1) * sizeof(T), kCacheLine))) {
    std::fill_n(data_, size, T(0));
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { ::operator delete(data_, kCacheLine); }
  T* data() const { return data_; }

 private:
  T* data_;
};

template <typename T>
using AccumulateOf = typename Block<T, 1>::Acc;

// Points that are found ahead of reading any value: finding takes vector instructions over points, reading takes them
// over channels. Arrays are filled up to whole registers.
template <typename Real>
class Points {
 public:
  static constexpr int kLanes = MSDA_REGISTER_BYTES / sizeof(Real);
  using Integer = std::conditional_t<sizeof(Real) == 4, int32_t, int64_t>;
  using RealLanes = Vector<Real, kLanes>;
  using IntegerLanes = Vector<Integer, kLanes>;

  explicit Points(int64_t capacity) : Points(Whole{(capacity + kCacheLanes - 1) / kCacheLanes * kCacheLanes}) {}

  // To be set before `find`: the map of each point, the offset of the map's first value, and the point.
  Integer *height, *width;
  int64_t* origin;
  Real *location_x, *location_y, *weight;
  // Found, for each corner: as `locate` has it, the offset of its value, and its coverage times attention weight.
  Real *fraction_x, *fraction_y;
  Integer* pixel[kCorners];
  int64_t* offset[kCorners];
  Real* share[kCorners];
  Real* products;  // for the backward pass: those of a point's corners side by side

  // Finds the first `count` points. Pixels lie `stride` values apart; a corner outside its map gets the offset `outside`.
  MSDA_FUNCTION void find(int64_t count, int64_t stride, int64_t outside) {
    for (int64_t i = 0; i < count; i += kLanes) {
      const auto weights = load_vector<RealLanes>(weight + i);
      const auto point = locate(
          load_vector<RealLanes>(location_x + i),
          load_vector<RealLanes>(location_y + i),
          load_vector<IntegerLanes>(height + i),
          load_vector<IntegerLanes>(width + i));
      store_vector(fraction_x + i, point.fraction_x);
      store_vector(fraction_y + i, point.fraction_y);
      for (int k = 0; k < kCorners; ++k) {
        store_vector(share[k] + i, RealLanes(weights * point.coverage[k]));
        store_vector(pixel[k] + i, point.pixel[k]);
      }
    }
    for (int k = 0; k < kCorners; ++k) {
      for (int64_t i = 0; i < count; i += kOffsetLanes) {
        const auto pixels = load_vector<Vector<Integer, kOffsetLanes>>(pixel[k] + i);
        const auto wide = __builtin_convertvector(pixels, OffsetLanes);
        const OffsetLanes inside = load_vector<OffsetLanes>(origin + i) + wide * stride;
        store_vector(offset[k] + i, OffsetLanes(wide < 0 ? OffsetLanes{} + outside : inside));
      }
    }
  }

 private:
  static constexpr int kOffsetLanes = MSDA_REGISTER_BYTES / sizeof(int64_t);
  using OffsetLanes = Vector<int64_t, kOffsetLanes>;

  static constexpr int kCacheLanes = 16;  // a cache line of the smallest type

  struct Whole {
    int64_t size;
  };
  explicit Points(Whole whole_)
      : reals_((5 + 2 * kCorners) * whole_.size),
        integers_((2 + kCorners) * whole_.size),
        offsets_((1 + kCorners) * whole_.size) {
    const int64_t whole = whole_.size;
    Real* real = reals_.data();
    Integer* integer = integers_.data();
    int64_t* number = offsets_.data();
    for (Real** array : {&location_x, &location_y, &weight, &fraction_x, &fraction_y}) *array = std::exchange(real, real + whole);
    for (Integer** array : {&height, &width}) *array = std::exchange(integer, integer + whole);
    origin = std::exchange(number, number + whole);
    products = std::exchange(real, real + kCorners * whole);
    for (int k = 0; k < kCorners; ++k) {
      share[k] = std::exchange(real, real + whole);
      pixel[k] = std::exchange(integer, integer + whole);
      offset[k] = std::exchange(number, number + whole);
    }
  }

  Array<Real> reals_;
  Array<Integer> integers_;
  Array<int64_t> offsets_;
};

// Locations alternate x and y in memory.
template <typename L, typename Real>
MSDA_FUNCTION void load_locations(const L* from, int64_t count, Real* x, Real* y) {
  int64_t i = 0;
  if constexpr (sizeof(L) == 4) {
    constexpr int kPairs = MSDA_REGISTER_BYTES / 8;
    for (; i + kPairs <= count; i += kPairs) {  // both numbers of a location as one 64-bit word
      const auto pairs = load_vector<Vector<uint64_t, kPairs>>(from + 2 * i);
      store_vector(x + i, __builtin_convertvector(pairs, Vector<uint32_t, kPairs>));
      store_vector(y + i, __builtin_convertvector(pairs >> 32, Vector<uint32_t, kPairs>));
    }
  }
  for (; i < count; ++i) {
    x[i] = static_cast<Real>(from[2 * i]);
    y[i] = static_cast<Real>(from[2 * i + 1]);
  }
}

// Points [from, from + count) of the tensors, in the value's type or in the sums', to [to, to + count).
template <typename T, typename Real>
MSDA_FUNCTION void load_points(
    const void* locations, const void* weights, bool as_value, int64_t from, int64_t count, Points<Real>& points, int64_t to) {
  if (as_value) {
    load_locations(static_cast<const T*>(locations) + 2 * from, count, points.location_x + to, points.location_y + to);
    std::copy_n(static_cast<const T*>(weights) + from, count, points.weight + to);
  } else {
    load_locations(static_cast<const Real*>(locations) + 2 * from, count, points.location_x + to, points.location_y + to);
    std::copy_n(static_cast<const Real*>(weights) + from, count, points.weight + to);
  }
}

// The way back, for the gradients that took the points' places.
template <typename L, typename Real>
MSDA_FUNCTION void store_points(const Points<Real>& points, int64_t from, int64_t count, void* locations, void* weights, int64_t to) {
  L* pairs = static_cast<L*>(locations) + 2 * to;
  for (int64_t i = 0; i < count; ++i) {
    pairs[2 * i] = static_cast<L>(points.location_x[from + i]);
    pairs[2 * i + 1] = static_cast<L>(points.location_y[from + i]);
  }
  std::copy_n(points.weight + from, count, static_cast<L*>(weights) + to);
}

// Calls STEP(C) with `channel` as the first one, for blocks of C channels that make up all of them.
#define MSDA_FOR_CHANNEL_BLOCKS(channels, STEP)                         \
  do {                                                                  \
    int64_t channel = 0;                                                \
    for (; (channels)-channel >= 32; channel += 32) STEP(32);           \
    for (; (channels)-channel >= 16; channel += 16) STEP(16);           \
    for (; (channels)-channel >= 8; channel += 8) STEP(8);              \
    for (; (channels)-channel >= 4; channel += 4) STEP(4);              \
    for (; (channels)-channel >= 1; channel += 1) STEP(1);              \
  } while (false)

// Between a tensor and scratch memory, which keeps registers as they are.
template <typename T, int C>
MSDA_FUNCTION void widen_block(const T* from, AccumulateOf<T>* to) {
  using B = Block<T, C>;
  typename B::Register registers[B::kRegisters];
  B::load(from, registers);
  for (int r = 0; r < B::kRegisters; ++r) store_vector(to + r * B::kLanes, registers[r]);
}
template <typename T, int C>
MSDA_FUNCTION void narrow_block(const AccumulateOf<T>* from, T* to) {
  using B = Block<T, C>;
  typename B::Register registers[B::kRegisters];
  for (int r = 0; r < B::kRegisters; ++r) registers[r] = load_vector<typename B::Register>(from + r * B::kLanes);
  B::store(to, registers);
}

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

template <typename T>
MSDA_TARGET void forward(const Sizes& sizes, const ForwardData& data, int64_t begin, int64_t end) {
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
    load_points<T>(data.locations, data.weights, data.locations_as_value, row * heads * samples, heads * samples, points, 0);
    points.find(heads * samples, stride, static_cast<const T*>(data.zeros) - value);
    for (int64_t head = 0; head < heads; ++head) {
#define MSDA_STEP(C) gather<T, C>(value + channel, points, head * samples, samples, output + head * channels + channel)
      MSDA_FOR_CHANNEL_BLOCKS(channels, MSDA_STEP);
#undef MSDA_STEP
    }
  }
}

// The values and the gradients of the values of one map, pixel by pixel, in the type sums are held in. A pixel's value is
// followed by its gradient. One more pixel, of value zero, stands for all that is outside.
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

// For points [first, first + count), all of one query: products of the output's gradient with the values of their
// corners, and the gradients of those values. A block that is not the first adds to the products.
template <typename T, int C>
MSDA_FUNCTION void scatter(
    const T* grad_output,
    AccumulateOf<T>* map,
    int64_t channels,
    const Points<AccumulateOf<T>>& points,
    int64_t first,
    int64_t count,
    bool add) {
  using B = Block<T, C>;
  using Acc = AccumulateOf<T>;
  using Register = typename B::Register;
  using Corners = Vector<Acc, kCorners>;
  const Acc* shares[kCorners];
  const int64_t* offsets[kCorners];
  for (int k = 0; k < kCorners; ++k) {
    shares[k] = points.share[k];
    offsets[k] = points.offset[k];
  }
  Acc* all_products = points.products;
  Register gradient[B::kRegisters];
  B::load(grad_output, gradient);
  for (int64_t i = first; i < first + count; ++i) {
    Acc *corners[kCorners], weights[kCorners];
    Register products[kCorners];
    for (int k = 0; k < kCorners; ++k) {
      corners[k] = map + offsets[k][i];
      weights[k] = shares[k][i];
      products[k] = gradient[0] * load_vector<Register>(corners[k]);
      for (int r = 1; r < B::kRegisters; ++r) products[k] += gradient[r] * load_vector<Register>(corners[k] + r * B::kLanes);
    }
    Corners sums = sum_lanes<Acc, B::kLanes>(products);
    if (add) sums += load_vector<Corners>(all_products + kCorners * i);
    store_vector(all_products + kCorners * i, sums);
    for (int k = 0; k < kCorners; ++k) {
      Acc* grad_value = corners[k] + channels;
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
        load_vector<Lanes>(points.fraction_x + i),
        load_vector<Lanes>(points.fraction_y + i),
        load_vector<Lanes>(points.weight + i),
        products,
        Lanes(__builtin_convertvector(load_vector<IntegerLanes>(points.height + i), Lanes)),
        Lanes(__builtin_convertvector(load_vector<IntegerLanes>(points.width + i), Lanes)));
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
  int64_t value_offset() const {
    return ((item * sizes.positions + first_pixel()) * sizes.heads + head) * sizes.channels;
  }
  int64_t row(int64_t query) const { return (item * sizes.queries + query) * sizes.heads + head; }
  int64_t points_of_query() const { return (last_level - first_level) * sizes.points; }
  int64_t point_offset(int64_t query) const { return row(query) * sizes.samples() + first_level * sizes.points; }
};

// Queries [first, last) of a task.
template <typename T>
MSDA_FUNCTION void backward_queries(
    const HeadTask<T>& task, Map<T>& map, Points<AccumulateOf<T>>& points, int64_t first, int64_t last) {
  using Acc = AccumulateOf<T>;
  const BackwardData& data = task.data;
  const int64_t channels = task.sizes.channels, count = task.points_of_query();
  for (int64_t query = first; query < last; ++query) {
    load_points<T>(
        data.locations, data.weights, data.locations_as_value, task.point_offset(query), count, points, (query - first) * count);
  }
  const int64_t pixels = task.pixels(), pitch = task.sizes.heads * channels;
  points.find((last - first) * count, map.stride(), pixels * map.stride());
  if (data.sparse) {
    const T* value = static_cast<const T*>(data.value) + task.value_offset();
    for (int k = 0; k < kCorners; ++k) {
      for (int64_t i = 0; i < (last - first) * count; ++i) {
        const int64_t pixel = points.offset[k][i] / map.stride();
        if (pixel < pixels) map.touch_value(pixel, value, pitch);
      }
    }
  }
  for (int64_t query = first; query < last; ++query) {
    const T* grad_output = static_cast<const T*>(data.grad_output) + task.row(query) * channels;
#define MSDA_STEP(C) \
  scatter<T, C>(grad_output + channel, map.value(0) + channel, channels, points, (query - first) * count, count, channel > 0)
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

template <typename T>
MSDA_TARGET void backward(const Sizes& sizes, const BackwardData& data, int64_t begin, int64_t end) {
  using Acc = AccumulateOf<T>;
  const int64_t channels = sizes.channels, pitch = sizes.heads * channels;
  int64_t most_pixels = 0;
  for (int64_t index = begin; index < end; ++index) most_pixels = std::max(most_pixels, HeadTask<T>(sizes, data, index).pixels());
  Map<T> map(most_pixels, channels);
  // Many points at a time fill the registers, few keep what is found in the cache.
  const int64_t count = data.levels_at_once * sizes.points;
  const int64_t at_once = std::max<int64_t>(1, 8 * Points<Acc>::kLanes / std::max<int64_t>(1, count));
  Points<Acc> points(at_once * count);

  for (int64_t index = begin; index < end; ++index) {
    const HeadTask<T> task(sizes, data, index);
    const int64_t pixels = task.pixels();
    const T* value = static_cast<const T*>(data.value) + task.value_offset();
    T* grad_value = static_cast<T*>(data.grad_value) + task.value_offset();
    if (!data.sparse) map.load_values(pixels, value, pitch);
    map.clear_outside(pixels);
    for (int64_t i = 0; i < at_once * count; ++i) {
      const Level& level = sizes.levels[task.first_level + i % count / sizes.points];
      points.height[i] = level.height;
      points.width[i] = level.width;
      points.origin[i] = (level.start - task.first_pixel()) * map.stride();
    }
    for (int64_t query = 0; query < sizes.queries; query += at_once) {
      backward_queries(task, map, points, query, std::min(query + at_once, sizes.queries));
    }
    if (data.sparse) {
      map.store_touched_gradients(grad_value, pitch);
    } else {
      map.store_gradients(pixels, grad_value, pitch);
    }
  }
}

CpuKernels kernels_for(c10::ScalarType value) {
  switch (value) {
    case c10::ScalarType::Float: return {forward<float>, backward<float>};
    case c10::ScalarType::Double: return {forward<double>, backward<double>};
    case c10::ScalarType::BFloat16: return {forward<c10::BFloat16>, backward<c10::BFloat16>};
    case c10::ScalarType::Half: return {forward<c10::Half>, backward<c10::Half>};
    default: return {nullptr, nullptr};
  }
}

}  // namespace MSDA_INSTRUCTIONS
}  // namespace ms_deform_attn
