/* SPDX-License-Identifier: Apache-2.0 */
#include "cpeer.h"

#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>

#define AES __attribute__((target("aes,sse2"), always_inline)) static inline

AES __m128i mixed(__m128i key, __m128i assist)
{
    assist = _mm_shuffle_epi32(assist, 0xff);
    key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
    key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
    key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
    return _mm_xor_si128(key, assist);
}

/* Key schedule and rounds together: round keys are used as they come. */
AES __m128i block(__m128i key, __m128i text)
{
    text = _mm_xor_si128(text, key);
#define ROUND(rcon) key = mixed(key, _mm_aeskeygenassist_si128(key, rcon)); text = _mm_aesenc_si128(text, key);
    ROUND(0x01) ROUND(0x02) ROUND(0x04) ROUND(0x08) ROUND(0x10) ROUND(0x20) ROUND(0x40) ROUND(0x80) ROUND(0x1b)
#undef ROUND
    key = mixed(key, _mm_aeskeygenassist_si128(key, 0x36));
    return _mm_aesenclast_si128(text, key);
}

int cpeer_available(void) { return __builtin_cpu_supports("aes"); }

__attribute__((target("aes,sse2"))) static void run(uint8_t *keys, long keys_count, long count)
{
    for (long i = 0, k = 0; i < count; i++) {
        __m128i key = _mm_loadu_si128((const __m128i *)(keys + 16 * k));
        __m128i value = block(key, _mm_set_epi64x(i, 2));
        /* The next key, as a chain has it. */
        k = k + 1 == keys_count ? 0 : k + 1;
        uint8_t *next = keys + 16 * k;
        _mm_storeu_si128((__m128i *)next, _mm_xor_si128(value, _mm_loadu_si128((const __m128i *)next)));
    }
}
#else
int cpeer_available(void) { return 0; }
static void run(uint8_t *keys, long keys_count, long count) { (void)keys; (void)keys_count; (void)count; }
#endif

double cpeer_prf_nanoseconds(uint8_t *keys, long keys_count, long count)
{
    struct timespec start, end;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
    run(keys, keys_count, count);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    return (double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec);
}
