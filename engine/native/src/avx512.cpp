// Compiled with AVX-512 switched on, and asked only where the machine has it.
#include "kernels.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include <immintrin.h>
#include <math.h>

#include "numbers.h"
namespace {
#include "lanes_avx512.h"
}
#include "kernels.inl"

const dyno::Kernels *dyno::avx512() {
    __builtin_cpu_init();
    const bool here = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
    return here ? table(DYNO_AVX512, "AVX-512") : nullptr;
}
#else
const dyno::Kernels *dyno::avx512() { return nullptr; }
#endif
