// Register tiles of the attention kernel. Included once for each instruction set, inside a namespace
// that defines LANES (floats of a vector) and VECTORS (vectors of a panel); no include guard.

typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef int32_t Bits __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));

constexpr int PANEL = LANES * VECTORS;  // columns that a tile of ROWS rows holds in registers

inline Vector load(const float* from) {
    Vector vector;
    __builtin_memcpy(&vector, from, sizeof vector);
    return vector;
}

inline Vector load(const Bfloat16* from) {  // a bfloat16 is the upper half of a float
    Halves halves;
    __builtin_memcpy(&halves, from, sizeof halves);
    Bits bits = __builtin_convertvector(halves, Bits) << 16;
    return (Vector)bits;
}

inline void store(float* to, Vector vector) { __builtin_memcpy(to, &vector, sizeof vector); }

inline void store(Bfloat16* to, Vector vector) {  // to nearest, ties to even; a NaN stays one
#ifdef PAIR_PRODUCTS
    Halves halves;
    asm("vcvtneps2bf16 %1, %0" : "=v"(halves) : "v"(vector));
#else
    Bits bits = (Bits)vector;
    Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    Bits quiet = (bits >> 16) | 0x40;
    Halves halves = __builtin_convertvector(vector == vector ? rounded : quiet, Halves);
#endif
    __builtin_memcpy(to, &halves, sizeof halves);
}

inline Vector paired(const Bfloat16* lower, const Bfloat16* upper) {
    Halves low, high;
    __builtin_memcpy(&low, lower, sizeof low);
    __builtin_memcpy(&high, upper, sizeof high);
    return (Vector)(__builtin_convertvector(low, Bits) | __builtin_convertvector(high, Bits) << 16);
}

inline Vector broadcast(float number) { return number - Vector{}; }

inline Vector broadcast(const float* word) {  // whatever its bits are
    int32_t bits;
    __builtin_memcpy(&bits, word, sizeof bits);
    return (Vector)(bits + Bits{});
}

// A word is a float, or a pair of neighbouring bfloat16 where the processor multiplies those.
template <bool PAIRS>
inline Vector multiply_add(Vector sum, Vector a, Vector b) {
#ifdef PAIR_PRODUCTS
    if constexpr (PAIRS) {  // GCC copies every sum around the intrinsic
        asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
        return sum;
    }
#endif
    return sum + a * b;
}

inline Vector maximum(Vector a, Vector b) { return a > b ? a : b; }

// Lanes of two vectors by number (those of the second count from LANES), for `half` a power of two.
enum Lanes { SWAPPED, LOWER, UPPER };  // halves exchanged; a's and b's lower halves; their upper ones

template <Lanes WHICH, int HALF>
inline Vector chosen(Vector a, Vector b) {
    struct Table {
        int32_t lanes[LANES];
        constexpr Table() : lanes() {
            for (int lane = 0; lane < LANES; ++lane) {
                const bool second = lane & HALF;
                lanes[lane] = WHICH == SWAPPED ? (lane ^ HALF)
                              : WHICH == LOWER ? (second ? LANES + lane - HALF : lane)
                                               : (second ? LANES + lane : lane + HALF);
            }
        }
    };
    alignas(64) static constexpr Table table{};
    Bits lanes;
    __builtin_memcpy(&lanes, table.lanes, sizeof lanes);
    return __builtin_shuffle(a, b, lanes);
}

template <int HALF = LANES / 2>
inline float sum(Vector vector) {
    vector += chosen<SWAPPED, HALF>(vector, vector);
    if constexpr (HALF > 1)
        return sum<HALF / 2>(vector);
    else
        return vector[0];
}

// Whether any lane is above the limit; a NaN is not.
inline bool any_above(Vector vector, float limit) {
#if LANES == 16
    return _mm512_cmp_ps_mask((__m512)vector, _mm512_set1_ps(limit), _CMP_GT_OQ);
#else
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)vector, _mm256_set1_ps(limit), _CMP_GT_OQ));
#endif
}

template <int HALF = LANES / 2>
inline float largest(Vector vector) {
    vector = maximum(vector, chosen<SWAPPED, HALF>(vector, vector));
    if constexpr (HALF > 1)
        return largest<HALF / 2>(vector);
    else
        return vector[0];
}

// Lane i is the sum of the i-th vector.
template <int HALF = LANES / 2>
inline Vector lane_sums(Vector* parts) {
    for (int at = 0; at < HALF; ++at)
        parts[at] = chosen<LOWER, HALF>(parts[at], parts[at + HALF]) +
                    chosen<UPPER, HALF>(parts[at], parts[at + HALF]);
    if constexpr (HALF > 1)
        return lane_sums<HALF / 2>(parts);
    else
        return parts[0];
}

// Rows become columns, by swapping blocks off the diagonal of ever smaller size.
template <int HALF = LANES / 2>
inline void transpose(Vector* rows) {
    for (int at = 0; at < LANES; ++at) {
        if (at & HALF) continue;
        const Vector a = rows[at], b = rows[at + HALF];
        rows[at] = chosen<LOWER, HALF>(a, b);
        rows[at + HALF] = chosen<UPPER, HALF>(a, b);
    }
    if constexpr (HALF > 1) transpose<HALF / 2>(rows);
}

// 2^x on [-1/2, 1/2]: the best polynomials of their degree, of relative error 7e-8 or, where the result
// goes on as bfloat16, 7e-5.
template <bool ROUGH>
inline Vector fraction_exp2(Vector part) {
    Vector power;
    if constexpr (ROUGH) {
        power = broadcast(5.5171534e-2f);
        power = power * part + 2.4261111e-1f;
        power = power * part + 6.9326103e-1f;
        power = power * part + 9.9992806e-1f;
    } else {
        power = broadcast(1.3276456e-3f);
        power = power * part + 9.6755410e-3f;
        power = power * part + 5.5507135e-2f;
        power = power * part + 2.4022120e-1f;
        power = power * part + 6.9314694e-1f;
        power = power * part + 1.0000001f;
    }
    return power;
}

// 2^x, and 0 below -126; a NaN stays one.
template <bool ROUGH>
inline Vector exp2(Vector x) {
#if LANES == 16
    const __mmask16 seen = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
    const __m512 whole = _mm512_maskz_roundscale_ps(seen, (__m512)x, _MM_FROUND_TO_NEAREST_INT);
    return (Vector)_mm512_maskz_scalef_ps(seen, (__m512)fraction_exp2<ROUGH>(x - (Vector)whole), whole);
#else
    const Vector shift = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const Vector bounded = x < -126.0f ? broadcast(-126.0f) : x;
    const Vector whole = (bounded + shift) - shift;
    const Bits scale = (__builtin_convertvector(whole, Bits) + 127) << 23;
    const Vector result = fraction_exp2<ROUGH>(bounded - whole) * (Vector)scale;
    return x < -126.0f ? Vector{} : result;
#endif
}

// 1 / x for x in [1, 2^127], relative error below 3e-7: an estimate, and Newton's steps.
inline Vector reciprocal(Vector x) {
#if LANES == 16
    Vector guess = (Vector)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);
#else
    Vector guess = (Vector)_mm256_rcp_ps((__m256)x);
    guess = guess * (2.0f - x * guess);
#endif
    return guess * (2.0f - x * guess);
}

// out[ROWS, COUNT vectors] (+)= left[ROWS, depth] @ right[depth, COUNT vectors], all in registers.
// Depth and the strides of left and right count words.
template <int ROWS, int COUNT, bool PAIRS, bool ADD>
inline void panel(const float* left, long left_stride, const float* right, long right_stride,
                  long depth, float* out, long out_stride) {
    Vector sums[ROWS][COUNT];
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 4
        for (int at = 0; at < COUNT; ++at)
            sums[row][at] = ADD ? load(out + row * out_stride + at * LANES) : Vector{};
    for (long step = 0; step < depth; ++step) {
        Vector columns[COUNT];
#pragma GCC unroll 4
        for (int at = 0; at < COUNT; ++at) {
            Vector column = load(right + step * right_stride + at * LANES);
            asm("" : "+v"(column));  // stays in its register for all the rows
            columns[at] = column;
        }
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; ++row) {
            const Vector factor = broadcast(left + row * left_stride + step);
#pragma GCC unroll 4
            for (int at = 0; at < COUNT; ++at)
                sums[row][at] = multiply_add<PAIRS>(sums[row][at], factor, columns[at]);
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 4
        for (int at = 0; at < COUNT; ++at) store(out + row * out_stride + at * LANES, sums[row][at]);
}

// The same for any multiple of LANES columns.
template <int ROWS, bool PAIRS, bool ADD, int COUNT = VECTORS>
inline void product(const float* left, long left_stride, const float* right, long right_stride,
                    long depth, long columns, float* out, long out_stride) {
    constexpr int WIDTH = COUNT * LANES;
    for (; columns >= WIDTH; columns -= WIDTH, right += WIDTH, out += WIDTH)
        panel<ROWS, COUNT, PAIRS, ADD>(left, left_stride, right, right_stride, depth, out, out_stride);
    if constexpr (COUNT > 1)
        product<ROWS, PAIRS, ADD, COUNT / 2>(left, left_stride, right, right_stride, depth, columns, out,
                                             out_stride);
}
