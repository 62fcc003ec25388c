// Prefix-shared attention over paged KV on the CPU: one pass over all that a step reads.
//
// Compiled for several instruction sets in one library; the processor at hand chooses. Called through
// ctypes with plain pointers, so that it needs no headers of torch or Python. OpenMP is left to be
// resolved at loading, by the runtime that torch has brought: two would fight for the cores.

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#define EXPORTED __attribute__((visibility("default")))

namespace {

constexpr int64_t MOST_ROWS = 192;  // of a block, for each key head
constexpr int64_t ITEMS = 32;       // for each thread, so that none waits long for the last one

struct Bfloat16 {
    uint16_t bits;
};

// Queries query_start:query_end read keys at positions position, position + 1, ...
struct Read {
    int64_t query_start, query_end, keys, position;
    int64_t first_slot;    // of consecutive ones; -1 where they are listed
    const int64_t* slots;  // the list

    int64_t queries_in(int64_t first, int64_t last) const {
        return std::min(query_end, last) - std::max(query_start, first);
    }
    int64_t slot(int64_t at) const { return first_slot >= 0 ? first_slot + at : slots[at]; }
};

}  // namespace

extern "C" {

// One layer of one step; strides count numbers, and the last axis is dense everywhere.
struct Step {
    int64_t queries, tokens, heads, kv_heads, head_dim, value_dim;
    int64_t window;  // 0 for none
    int64_t read_count;
    int64_t query_stride, query_head_stride, key_stride, key_head_stride, value_stride,
        value_head_stride;
    float scale;
    int32_t is_bfloat16;
    const void *query, *key, *value;  // [queries, heads, dim], [tokens, kv_heads, dim]
    void *key_cache, *value_cache;    // [slots, kv_heads, dim]
    void* output;                     // [queries, heads, value_dim]
    const int64_t *positions, *write_slots;  // [queries], [tokens]
    const Read* reads;
    const float* sinks;  // [heads], or null
};

// Rows of numbers, all dense.
struct Rows {
    int64_t count, width;
    const void *first, *second;  // what comes in; see rows.h
    void* output;
    float epsilon;
    int32_t is_bfloat16;
};

// Heads of tokens, each turned by its token's angles; strides count numbers.
struct Heads {
    int64_t tokens, heads, width;
    int64_t token_stride, head_stride;  // of what comes in, whose last axis is dense
    const void *from, *cos, *sin;       // [tokens, heads, width], twice [tokens, width]
    void* to;                           // [tokens, heads, width], dense as are the angles
    int32_t is_bfloat16;
};
}

namespace {

// How a step is cut for threads: into blocks of neighbouring queries, and some into parts by key head.
struct Blocks {
    struct Item {
        int64_t block, first, last, first_head, last_head;  // queries, key heads
    };
    int64_t size;
    std::vector<std::vector<int64_t>> reads;  // of each block
    std::vector<Item> items;

    Blocks(const Step& step, int64_t threads) {
        const bool alone = threads == 1;
        const int64_t wanted = alone ? 1 : 4 * threads, group = step.heads / step.kv_heads;
        size = std::clamp<int64_t>(step.queries / wanted, 1, std::max<int64_t>(1, MOST_ROWS / group));
        reads.resize((step.queries + size - 1) / size);
        for (int64_t read = 0; read < step.read_count; ++read)
            for (int64_t at = step.reads[read].query_start / size;
                 at * size < step.reads[read].query_end; ++at)
                reads[at].push_back(read);
        const int64_t count = reads.size(), cuts = (ITEMS * threads + count - 1) / count;
        for (int64_t block = 0; block < count; ++block) {
            const int64_t first = block * size, last = std::min(step.queries, first + size);
            const bool whole = alone || reads_apart(step, reads[block], first, last);
            const int64_t parts = whole ? 1 : std::min(step.kv_heads, cuts);
            for (int64_t part = 0; part < parts; ++part)
                items.push_back({block, first, last, step.kv_heads * part / parts,
                                 step.kv_heads * (part + 1) / parts});
        }
    }

    // True where the queries read more that no other of them reads than what they have in common.
    // Memory is the limit then, and gives a key's heads faster together than each by itself.
    static bool reads_apart(const Step& step, const std::vector<int64_t>& reads, int64_t first,
                            int64_t last) {
        int64_t apart = 0, together = 0;
        for (const int64_t place : reads) {
            const int64_t queries = step.reads[place].queries_in(first, last);
            (queries == 1 ? apart : together) += queries * step.reads[place].keys;
        }
        return apart > together;
    }
};

struct Span {
    int64_t start, end;
};

#define LANES 8
#define VECTORS 2
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#include "tile.h"
#include "attend.h"
#include "rows.h"
}  // namespace avx2
#pragma GCC pop_options
#undef LANES
#undef VECTORS

#define LANES 16
#define VECTORS 4
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,prefer-vector-width=512")
namespace avx512 {
#include "tile.h"
#include "attend.h"
#include "rows.h"
}  // namespace avx512
#pragma GCC pop_options

#define PAIR_PRODUCTS
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma,prefer-vector-width=512")
namespace avx512_bf16 {
#include "tile.h"
#include "attend.h"
#include "rows.h"
}  // namespace avx512_bf16
#pragma GCC pop_options

enum Instructions { TOO_OLD, AVX2, AVX512, AVX512_BF16 };  // as `Instructions` in native.py

}  // namespace

extern "C" {

// The best instructions of this processor that a kernel here is compiled for.
EXPORTED int32_t batchpipe_instructions() {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return __builtin_cpu_supports("avx512bf16") ? AVX512_BF16 : AVX512;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? AVX2 : TOO_OLD;
}

// Stores the step's keys and values, then every query attends to its context.
EXPORTED void batchpipe_attend(const Step* step, int32_t instructions) {
    const Blocks blocks(*step, omp_get_max_threads());
    const bool halves = step->is_bfloat16;
    if (instructions == AVX2)
        halves ? avx2::attend<Bfloat16, false>(*step, blocks)
               : avx2::attend<float, false>(*step, blocks);
    else if (!halves)
        avx512::attend<float, false>(*step, blocks);
    else if (instructions == AVX512_BF16 && step->head_dim % 32 == 0)
        avx512_bf16::attend<Bfloat16, true>(*step, blocks);
    else
        avx512::attend<Bfloat16, false>(*step, blocks);
}

// output = second * first / sqrt(mean(first^2) + epsilon), row by row.
EXPORTED void batchpipe_normalise(const Rows* rows, int32_t instructions) {
    if (instructions == AVX2)
        rows->is_bfloat16 ? avx2::normalise_rows<Bfloat16>(*rows)
                          : avx2::normalise_rows<float>(*rows);
    else if (!rows->is_bfloat16)
        avx512::normalise_rows<float>(*rows);
    else if (instructions == AVX512_BF16)
        avx512_bf16::normalise_rows<Bfloat16>(*rows);
    else
        avx512::normalise_rows<Bfloat16>(*rows);
}

// output = silu(output) * second.
EXPORTED void batchpipe_open_gates(const Rows* rows, int32_t instructions) {
    if (instructions == AVX2)
        rows->is_bfloat16 ? avx2::open_gates<Bfloat16>(*rows) : avx2::open_gates<float>(*rows);
    else if (!rows->is_bfloat16)
        avx512::open_gates<float>(*rows);
    else if (instructions == AVX512_BF16)
        avx512_bf16::open_gates<Bfloat16>(*rows);
    else
        avx512::open_gates<Bfloat16>(*rows);
}

// to = from * cos + (from with its halves exchanged, the first then negative) * sin.
EXPORTED void batchpipe_turn(const Heads* heads, int32_t instructions) {
    if (instructions == AVX2)
        heads->is_bfloat16 ? avx2::turn_heads<Bfloat16>(*heads) : avx2::turn_heads<float>(*heads);
    else if (!heads->is_bfloat16)
        avx512::turn_heads<float>(*heads);
    else if (instructions == AVX512_BF16)
        avx512_bf16::turn_heads<Bfloat16>(*heads);
    else
        avx512::turn_heads<Bfloat16>(*heads);
}
}
