#if defined(__x86_64__)
#define MSDA_INSTRUCTIONS avx512
#define MSDA_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define MSDA_REGISTER_BYTES 64
#include "cpu_kernels_impl.h"
#endif
