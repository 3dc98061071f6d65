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
#include <new>
#include <utility>

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
  Real* product[kCorners];  // room for the backward pass

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
    for (int k = 0; k < kCorners; ++k) {
      share[k] = std::exchange(real, real + whole);
      product[k] = std::exchange(real, real + whole);
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

template <typename T, int C>
MSDA_FUNCTION void convert_block(const AccumulateOf<T>* from, T* to) {
  using B = Block<T, C>;
  typename B::Register registers[B::kRegisters];
  std::memcpy(registers, from, sizeof(registers));
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

// For points [first, first + count), all of one query: adds the products of the output's gradient with their corners'
// values, and adds the gradient of their corners' values to `grad_map`, whose last pixel takes what falls outside.
template <typename T, int C>
MSDA_FUNCTION void scatter(
    const T* grad_output,
    const T* value,
    Points<AccumulateOf<T>>& points,
    int64_t first,
    int64_t count,
    int64_t channels,
    int64_t outside,
    AccumulateOf<T>* grad_map) {
  using B = Block<T, C>;
  using Register = typename B::Register;
  Register gradient[B::kRegisters];
  B::load(grad_output, gradient);
  for (int64_t i = first; i < first + count; ++i) {
    for (int k = 0; k < kCorners; ++k) {
      Register corner[B::kRegisters];
      B::load(value + points.offset[k][i], corner);
      Register product = gradient[0] * corner[0];
      for (int r = 1; r < B::kRegisters; ++r) product += gradient[r] * corner[r];
      points.product[k][i] += sum_lanes<typename B::Acc, B::kLanes>(product);

      const int64_t pixel = points.pixel[k][i];
      AccumulateOf<T>* sums = grad_map + (pixel < 0 ? outside : pixel) * channels;
      for (int r = 0; r < B::kRegisters; ++r, sums += B::kLanes) {
        store_vector(sums, Register(load_vector<Register>(sums) + points.share[k][i] * gradient[r]));
      }
    }
  }
}

// Turns the products of points [0, count) into gradients of the locations and of the attention weights, which take the
// places of both.
template <typename Real>
MSDA_FUNCTION void finish_gradients(Points<Real>& points, int64_t count) {
  using Lanes = typename Points<Real>::RealLanes;
  for (int64_t i = 0; i < count; i += Points<Real>::kLanes) {
    Lanes products[kCorners];
    for (int k = 0; k < kCorners; ++k) products[k] = load_vector<Lanes>(points.product[k] + i);
    const auto gradient = point_gradient(
        load_vector<Lanes>(points.fraction_x + i),
        load_vector<Lanes>(points.fraction_y + i),
        load_vector<Lanes>(points.weight + i),
        products,
        Lanes(__builtin_convertvector(load_vector<typename Points<Real>::IntegerLanes>(points.height + i), Lanes)),
        Lanes(__builtin_convertvector(load_vector<typename Points<Real>::IntegerLanes>(points.width + i), Lanes)));
    store_vector(points.location_x + i, gradient.location_x);
    store_vector(points.location_y + i, gradient.location_y);
    store_vector(points.weight + i, gradient.attention_weight);
  }
}

template <typename T>
MSDA_TARGET void backward(const Sizes& sizes, const BackwardData& data, int64_t begin, int64_t end) {
  using Acc = AccumulateOf<T>;
  const int64_t num_levels = static_cast<int64_t>(sizes.levels.size()), num_points = sizes.points;
  const int64_t heads = sizes.heads, channels = sizes.channels, stride = heads * channels;
  int64_t largest = 0;
  for (const Level& level : sizes.levels) largest = std::max<int64_t>(largest, int64_t{level.height} * level.width);
  Array<Acc> grad_map((largest + 1) * channels);
  // Many points at a time fill the registers, few keep what is found in the cache.
  const int64_t at_once = std::max<int64_t>(1, 8 * Points<Acc>::kLanes / std::max<int64_t>(1, num_points));
  Points<Acc> points(at_once * num_points);

  for (int64_t map = begin; map < end; ++map) {
    const int64_t item = map / (heads * num_levels), head = map / num_levels % heads, l = map % num_levels;
    const Level& level = sizes.levels[l];
    const int64_t pixels = int64_t{level.height} * level.width;
    const int64_t first_value = (item * sizes.positions + level.start) * stride + head * channels;
    const T* value = static_cast<const T*>(data.value) + first_value;
    std::fill_n(grad_map.data(), (pixels + 1) * channels, Acc(0));
    std::fill_n(points.height, at_once * num_points, level.height);
    std::fill_n(points.width, at_once * num_points, level.width);

    for (int64_t query = 0; query < sizes.queries; query += at_once) {
      const int64_t count = std::min(at_once, sizes.queries - query);
      const int64_t first_row = (item * sizes.queries + query) * heads + head;  // of (N, Lq, heads)
      for (int64_t i = 0; i < count; ++i) {
        const int64_t from = ((first_row + i * heads) * num_levels + l) * num_points;
        load_points<T>(data.locations, data.weights, data.locations_as_value, from, num_points, points, i * num_points);
      }
      points.find(count * num_points, stride, static_cast<const T*>(data.zeros) - value);
      for (int k = 0; k < kCorners; ++k) std::fill_n(points.product[k], count * num_points, Acc(0));
      for (int64_t i = 0; i < count; ++i) {
        const T* grad_output = static_cast<const T*>(data.grad_output) + (first_row + i * heads) * channels;
#define MSDA_STEP(C) \
  scatter<T, C>(grad_output + channel, value + channel, points, i * num_points, num_points, channels, pixels, grad_map.data() + channel)
        MSDA_FOR_CHANNEL_BLOCKS(channels, MSDA_STEP);
#undef MSDA_STEP
      }
      finish_gradients(points, count * num_points);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t to = ((first_row + i * heads) * num_levels + l) * num_points;
        if (data.locations_as_value) {
          store_points<T>(points, i * num_points, num_points, data.grad_locations, data.grad_weights, to);
        } else {
          store_points<Acc>(points, i * num_points, num_points, data.grad_locations, data.grad_weights, to);
        }
      }
    }
    T* grad_value = static_cast<T*>(data.grad_value) + first_value;
    for (int64_t pixel = 0; pixel < pixels; ++pixel, grad_value += stride) {
      const Acc* sums = grad_map.data() + pixel * channels;
#define MSDA_STEP(C) convert_block<T, C>(sums + channel, grad_value + channel)
      MSDA_FOR_CHANNEL_BLOCKS(channels, MSDA_STEP);
#undef MSDA_STEP
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
