// Blocks of channels in vector registers. GCC's and Clang's vector extensions compile to AVX-512, AVX2, SSE or Neon
// instructions alike, whichever the including file allows.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#if defined(__x86_64__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // within GCC's own header
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace ms_deform_attn {
namespace MSDA_INSTRUCTIONS {  // every instruction set has its own copy of this namespace

template <typename T, int N>
struct VectorOf {
  typedef T Type __attribute__((vector_size(N * sizeof(T))));
};
template <typename T, int N>
using Vector = typename VectorOf<T, N>::Type;

template <typename V, typename T>
MSDA_FUNCTION V load_vector(const T* from) {
  V vector;
  std::memcpy(&vector, from, sizeof(V));
  return vector;
}

template <typename V, typename T>
MSDA_FUNCTION void store_vector(T* to, const V& vector) {
  std::memcpy(to, &vector, sizeof(V));
}

template <typename To, typename From>
MSDA_FUNCTION To reinterpret(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "only the type of the bits changes");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

// Float32 to the upper 16 bits of the nearest bfloat16 (ties to even), NaN kept.
template <int N>
MSDA_FUNCTION Vector<uint32_t, N> round_to_bfloat16(const Vector<float, N>& value) {
  const auto bits = reinterpret<Vector<uint32_t, N>>(value);
  const Vector<uint32_t, N> rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const Vector<uint32_t, N> not_a_number = bits | 0x00400000;
  return value == value ? rounded : not_a_number;
}

constexpr int kFloatLanes = MSDA_REGISTER_BYTES / sizeof(float);

// C channels of type T, computed with as registers of type Acc. Scratch memory holds registers as they are, so a type
// may order its channels within a block as is quickest, the same at loading and at storing.
template <typename T, int C>
struct Block {  // float, double
  using Acc = T;
  static constexpr int kLanes = C * sizeof(T) < MSDA_REGISTER_BYTES ? C : MSDA_REGISTER_BYTES / sizeof(T);
  static constexpr int kRegisters = C / kLanes;
  using Register = Vector<T, kLanes>;

  static MSDA_FUNCTION void load(const T* from, Register (&registers)[kRegisters]) {
    for (int r = 0; r < kRegisters; ++r) registers[r] = load_vector<Register>(from + r * kLanes);
  }
  static MSDA_FUNCTION void store(T* to, const Register (&registers)[kRegisters]) {
    for (int r = 0; r < kRegisters; ++r) store_vector(to + r * kLanes, registers[r]);
  }
};

// A 32-bit word holds two neighbouring bfloat16. Even channels go to one register and odd ones to another, since each
// takes one instruction that way.
template <int C>
struct Block<c10::BFloat16, C> {
  using Acc = float;
  static constexpr int kLanes = C / 2 < kFloatLanes ? C / 2 : kFloatLanes;
  static constexpr int kRegisters = C / kLanes;
  using Register = Vector<float, kLanes>;
  using Words = Vector<uint32_t, kLanes>;

  static MSDA_FUNCTION void load(const c10::BFloat16* from, Register (&registers)[kRegisters]) {
    for (int r = 0; r < kRegisters; r += 2) {
      const Words words = load_vector<Words>(from + r * kLanes);
      registers[r] = reinterpret<Register>(Words(words << 16));
      registers[r + 1] = reinterpret<Register>(Words(words & 0xffff0000u));
    }
  }
  static MSDA_FUNCTION void store(c10::BFloat16* to, const Register (&registers)[kRegisters]) {
    for (int r = 0; r < kRegisters; r += 2) {
      const Words even = round_to_bfloat16<kLanes>(registers[r]) >> 16;
      const Words odd = round_to_bfloat16<kLanes>(registers[r + 1]) & 0xffff0000u;
      store_vector(to + r * kLanes, Words(even | odd));
    }
  }
};

template <>
struct Block<c10::BFloat16, 1> {
  using Acc = float;
  static constexpr int kLanes = 1, kRegisters = 1;
  using Register = Vector<float, 1>;
  static MSDA_FUNCTION void load(const c10::BFloat16* from, Register (&registers)[1]) {
    registers[0][0] = static_cast<float>(*from);
  }
  static MSDA_FUNCTION void store(c10::BFloat16* to, const Register (&registers)[1]) {
    *to = c10::BFloat16(registers[0][0]);
  }
};

template <int C>
struct Block<c10::Half, C> {
  using Acc = float;
  static constexpr int kLanes = C < kFloatLanes ? C : kFloatLanes;
  static constexpr int kRegisters = C / kLanes;
  using Register = Vector<float, kLanes>;

  static MSDA_FUNCTION void load(const c10::Half* from, Register (&registers)[kRegisters]) {
    for (int r = 0; r < kRegisters; ++r) registers[r] = widen(from + r * kLanes);
  }
  static MSDA_FUNCTION void store(c10::Half* to, const Register (&registers)[kRegisters]) {
    for (int r = 0; r < kRegisters; ++r) narrow(to + r * kLanes, registers[r]);
  }

 private:
  static MSDA_FUNCTION Register widen(const c10::Half* from) {
#if MSDA_REGISTER_BYTES == 64
    if constexpr (kLanes == 16) {
      return reinterpret<Register>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
    }
#endif
#if MSDA_REGISTER_BYTES >= 32
    if constexpr (kLanes >= 8) {
      Register wide;
      for (int lane = 0; lane < kLanes; lane += 8) {
        const __m256 eight = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + lane)));
        std::memcpy(reinterpret_cast<char*>(&wide) + lane * sizeof(float), &eight, sizeof(eight));
      }
      return wide;
    }
#endif
    Register wide;
    for (int lane = 0; lane < kLanes; ++lane) wide[lane] = static_cast<float>(from[lane]);
    return wide;
  }
  static MSDA_FUNCTION void narrow(c10::Half* to, const Register& wide) {
    for (int lane = 0; lane < kLanes; ++lane) to[lane] = c10::Half(static_cast<float>(wide[lane]));
  }
};

template <typename T>
using AccumulateOf = typename Block<T, 1>::Acc;

// Calls STEP(C) with `channel` as the first one, for blocks of C channels that make up all of them.
#define MSDA_FOR_CHANNEL_BLOCKS(channels, STEP)                 \
  do {                                                          \
    int64_t channel = 0;                                        \
    for (; (channels) - channel >= 32; channel += 32) STEP(32); \
    for (; (channels) - channel >= 16; channel += 16) STEP(16); \
    for (; (channels) - channel >= 8; channel += 8) STEP(8);    \
    for (; (channels) - channel >= 4; channel += 4) STEP(4);    \
    for (; (channels) - channel >= 1; channel += 1) STEP(1);    \
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

}  // namespace MSDA_INSTRUCTIONS
}  // namespace ms_deform_attn
