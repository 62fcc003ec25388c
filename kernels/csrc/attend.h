// Attention of one block of queries, for one key head, over all that it reads. Included once for each
// instruction set, after tile.h, inside the same namespace; no include guard.
//
// A row is one query head of one query. Rows keep a running softmax in base 2 (Milakov, Gimelshein
// 2018): a score near the largest, the sum of weights, and the weighted values, so reads may come in
// any order and any number and need no merging.

constexpr int TILE = 6;           // rows of a register tile
constexpr int KEYS = 64;          // keys of a packed block
constexpr int STREAMED_ROWS = 2;  // so many rows or fewer do not pay for packing
constexpr float HEADROOM = 8;     // a score may pass the row's reference by so much: weights to 256
constexpr float LOG2_E = 1.44269504088896341f;

struct Scratch {
    std::vector<float> queries, sums, top, packed_keys, packed_values;
    std::vector<float> weight_sums;  // a vector of each row, to be summed at the end
    std::vector<int64_t> from, until;  // of each row: the keys of the current read that it sees

    void fit(long rows, long head_dim, long value_dim) {
        queries.resize(rows * head_dim);
        sums.resize(rows * value_dim);
        top.resize(rows), weight_sums.resize(rows * LANES), from.resize(rows), until.resize(rows);
        packed_keys.resize(head_dim * KEYS), packed_values.resize(KEYS * value_dim);
    }
};

template <typename Number, bool PAIRS>
struct Block {
    static constexpr int TOGETHER = PAIRS ? 2 : 1;  // numbers of a word

    const Step& step;
    Scratch& own;
    long head;         // key head
    long first, last;  // queries
    long group = step.heads / step.kv_heads;
    long rows = (last - first) * group;
    long head_words = step.head_dim / TOGETHER;
    float scale = step.scale * LOG2_E;  // scores in base 2

    const Number* key(int64_t slot) const {
        return (const Number*)step.key_cache + (slot * step.kv_heads + head) * step.head_dim;
    }
    const Number* value(int64_t slot) const {
        return (const Number*)step.value_cache + (slot * step.kv_heads + head) * step.value_dim;
    }
    static Vector words(const Number* numbers, long word) {
        if constexpr (PAIRS)
            return load((const float*)(numbers + 2 * word));
        else
            return load(numbers + word);
    }

    void start() {
        own.fit(rows, head_words, step.value_dim);
        for (long row = 0; row < rows; ++row) {
            const Number* query = (const Number*)step.query + (first + row / group) * step.query_stride +
                                  (head * group + row % group) * step.query_head_stride;
            float* to = &own.queries[row * head_words];
            for (long at = 0; at < head_words; at += LANES) store(to + at, words(query, at));
        }
        std::fill(own.sums.begin(), own.sums.end(), 0.0f);
        std::fill(own.top.begin(), own.top.end(), -INFINITY);
        std::fill(own.weight_sums.begin(), own.weight_sums.end(), 0.0f);
    }

    long begin_of(const Read& read) const {
        return (std::max<long>(read.query_start, first) - first) * group;
    }
    long end_of(const Read& read) const {
        return (std::min<long>(read.query_end, last) - first) * group;
    }
    bool streams(const Read& read) const { return end_of(read) - begin_of(read) <= STREAMED_ROWS; }

    // The keys of the read that any of its rows sees, as far as causality and window let them.
    Span look(const Read& read) {
        Span seen{read.keys, 0};
        for (long row = begin_of(read); row < end_of(read); ++row) {
            const int64_t at = step.positions[first + row / group] - read.position + 1;
            own.until[row] = std::clamp<int64_t>(at, 0, read.keys);
            own.from[row] = step.window ? std::clamp<int64_t>(at - step.window, 0, read.keys) : 0;
            seen.start = std::min(seen.start, own.from[row]);
            seen.end = std::max(seen.end, own.until[row]);
        }
        return seen;
    }

    // Few rows take in a block of keys, each of which is read where it lies.
    void stream(const Read& read, int64_t start, int64_t count) {
        const Number *keys[KEYS], *values[KEYS];
        const int64_t width = padded(count);
        for (int64_t at = 0; at < width; ++at) {  // what is too many is read, but weighs nothing
            const int64_t slot = read.slot(start + std::min(at, count - 1));
            keys[at] = key(slot), values[at] = value(slot);
        }
        alignas(64) float scores[KEYS];
        for (long row = begin_of(read); row < end_of(read); ++row) {
            score(&own.queries[row * head_words], keys, width, scores);
            const float kept = weigh(scores, width, row, start);
            long d = 0;
            for (; d + PANEL <= step.value_dim; d += PANEL)
                add<VECTORS>(scores, values, row, start, count, kept, d);
            for (; d < step.value_dim; d += LANES) add<1>(scores, values, row, start, count, kept, d);
        }
    }

    void score(const float* query, const Number** keys, int64_t width, float* scores) {
        for (int64_t at = 0; at < width; at += LANES) {
            Vector dots[LANES]{};
            for (long word = 0; word < head_words; word += LANES) {
                const Vector part = load(query + word);
#pragma GCC unroll 16
                for (int lane = 0; lane < LANES; ++lane)
                    dots[lane] = multiply_add<PAIRS>(dots[lane], part, words(keys[at + lane], word));
            }
            store(scores + at, lane_sums(dots));
        }
    }

    // The row's sums from this column on are scaled, and take in the values by their weights.
    template <int COUNT>
    void add(const float* weights, const Number** values, long row, int64_t start, int64_t count,
             float kept, long column) {
        float* to = &own.sums[row * step.value_dim + column];
        Vector even[COUNT], odd[COUNT]{};  // two chains, or each sum waits for the one before it
#pragma GCC unroll 4
        for (int at = 0; at < COUNT; ++at) even[at] = load(to + at * LANES) * kept;
        int64_t key = std::max<int64_t>(0, own.from[row] - start);  // unseen ones may hold NaN
        const int64_t until = std::min(count, own.until[row] - start);
        for (; key + 2 <= until; key += 2)
#pragma GCC unroll 4
            for (int at = 0; at < COUNT; ++at) {
                even[at] += load(values[key] + column + at * LANES) * weights[key];
                odd[at] += load(values[key + 1] + column + at * LANES) * weights[key + 1];
            }
        if (key < until)
#pragma GCC unroll 4
            for (int at = 0; at < COUNT; ++at)
                even[at] += load(values[key] + column + at * LANES) * weights[key];
#pragma GCC unroll 4
        for (int at = 0; at < COUNT; ++at) store(to + at * LANES, even[at] + odd[at]);
    }

    // Many rows take in a block of keys, which is packed once for all of them.
    void tiles(const Read& read, int64_t start, int64_t count) {
        const int64_t width = padded(count);
        pack(read, start, count, width);
        fetch(read, start + count);
        long row = begin_of(read);
        const long end = end_of(read);
        for (; row + TILE <= end; row += TILE) tile<TILE>(row, start, count, width);
        switch (end - row) {
            case 5: return tile<5>(row, start, count, width);
            case 4: return tile<4>(row, start, count, width);
            case 3: return tile<3>(row, start, count, width);
            case 2: return tile<2>(row, start, count, width);
            case 1: return tile<1>(row, start, count, width);
        }
    }

    static int64_t padded(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

    // The next block is on its way from memory while this one is computed with.
    void fetch(const Read& read, int64_t start) const {
        constexpr int LINE = 64 / sizeof(Number);
        for (int64_t at = start; at < std::min(start + KEYS, read.keys); ++at) {
            const int64_t slot = read.slot(at);
            for (long d = 0; d < step.head_dim; d += LINE) __builtin_prefetch(key(slot) + d);
            for (long d = 0; d < step.value_dim; d += LINE) __builtin_prefetch(value(slot) + d);
        }
    }

    // Keys as [words of a head, KEYS]; values as [KEYS, value_dim], or in pairs of keys.
    void pack(const Read& read, int64_t start, int64_t count, int64_t width) {
        for (int64_t at = 0; at < width; at += LANES) {
            const Number *keys[LANES], *values[LANES];
            for (int lane = 0; lane < LANES; ++lane) {
                const int64_t slot = read.slot(start + std::min(at + lane, count - 1));
                keys[lane] = key(slot), values[lane] = value(slot);
            }
            for (long word = 0; word < head_words; word += LANES) {
                Vector parts[LANES];
#pragma GCC unroll 16
                for (int lane = 0; lane < LANES; ++lane) parts[lane] = words(keys[lane], word);
                transpose(parts);
#pragma GCC unroll 16
                for (int lane = 0; lane < LANES; ++lane)
                    store(&own.packed_keys[(word + lane) * KEYS + at], parts[lane]);
            }
            for (int lane = 0; lane < LANES; lane += TOGETHER) {
                float* to = &own.packed_values[(at + lane) / TOGETHER * step.value_dim];
                for (long d = 0; d < step.value_dim; d += LANES)
                    if constexpr (PAIRS)
                        store(to + d, paired(values[lane] + d, values[lane + 1] + d));
                    else
                        store(to + d, load(values[lane] + d));
            }
        }
    }

    template <int ROWS>
    void tile(long row, int64_t start, int64_t count, int64_t width) {
        int64_t until = 0;
        for (int r = 0; r < ROWS; ++r) until = std::max(until, own.until[row + r] - start);
        if (until <= 0) return;
        alignas(64) float scores[ROWS * KEYS];
        product<ROWS, PAIRS, false>(&own.queries[row * head_words], head_words, own.packed_keys.data(),
                                    KEYS, head_words, width, scores, KEYS);
        float* sums = &own.sums[row * step.value_dim];
        for (int r = 0; r < ROWS; ++r) {
            const float kept = weigh(scores + r * KEYS, width, row + r, start);
            if (kept != 1)
                for (long d = 0; d < step.value_dim; d += LANES)
                    store(sums + r * step.value_dim + d, load(sums + r * step.value_dim + d) * kept);
            if constexpr (PAIRS)  // the weights' words lie at the row's beginning
                for (int at = 0; at < width; at += LANES)
                    store((Bfloat16*)(scores + r * KEYS) + at, load(scores + r * KEYS + at));
        }
        const int64_t words = (std::min(count, until) + TOGETHER - 1) / TOGETHER;
        product<ROWS, PAIRS, true>(scores, KEYS, own.packed_values.data(), step.value_dim, words,
                                   step.value_dim, sums, step.value_dim);
    }

    // Products of so many keys from start on become weights relative to the row's reference, which rises
    // only where a score is far above it. Returns what the sums of earlier keys are multiplied by.
    float weigh(float* scores, int64_t width, long row, int64_t start) {
        const int64_t from = std::max<int64_t>(0, own.from[row] - start);
        const int64_t until = std::min<int64_t>(width, own.until[row] - start);
        if (from >= until) {  // it sees none of them
            std::fill(scores, scores + width, 0.0f);
            return 1;
        }
        std::fill(scores, scores + from, -INFINITY);
        std::fill(scores + until, scores + width, -INFINITY);
        Vector most = load(scores);
        for (int at = LANES; at < width; at += LANES) most = maximum(most, load(scores + at));
        float kept = 1;
        if (any_above(most * scale, own.top[row] + HEADROOM)) {
            const float top = largest(most) * scale;
            kept = exp2f(own.top[row] - top);
            own.top[row] = top;
        }
        Vector total = load(&own.weight_sums[row * LANES]) * kept;
        for (int at = 0; at < width; at += LANES) {
            const Vector weights = exp2<PAIRS>(load(scores + at) * scale - own.top[row]);
            store(scores + at, weights);
            total += weights;
        }
        store(&own.weight_sums[row * LANES], total);
        return kept;
    }

    void finish() {
        for (long row = 0; row < rows; ++row) {
            const long query_head = head * group + row % group;
            const float seen = sum(load(&own.weight_sums[row * LANES]));
            const float sink = step.sinks ? exp2f(step.sinks[query_head] * LOG2_E - own.top[row]) : 0;
            const float share = seen > 0 ? 1 / (seen + sink) : seen * 0;  // a NaN stays one
            Number* to = (Number*)step.output +
                         ((first + row / group) * step.heads + query_head) * step.value_dim;
            const float* from = &own.sums[row * step.value_dim];
            for (long d = 0; d < step.value_dim; d += LANES) store(to + d, load(from + d) * share);
        }
    }
};

// The step's keys and values lie in their slots.
template <typename Number>
void write(const Step& step, int64_t token) {
    const int64_t slot = step.write_slots[token];
    for (int64_t head = 0; head < step.kv_heads; ++head) {
        memcpy((Number*)step.key_cache + (slot * step.kv_heads + head) * step.head_dim,
               (const Number*)step.key + token * step.key_stride + head * step.key_head_stride,
               step.head_dim * sizeof(Number));
        memcpy((Number*)step.value_cache + (slot * step.kv_heads + head) * step.value_dim,
               (const Number*)step.value + token * step.value_stride + head * step.value_head_stride,
               step.value_dim * sizeof(Number));
    }
}

// Some key heads of a block of queries, from their first read to their last.
template <typename Number, bool PAIRS>
void attend(const Step& step, const Blocks::Item& item, const std::vector<int64_t>& reads) {
    static thread_local std::vector<Scratch> scratch;
    const long heads = item.last_head - item.first_head;
    scratch.resize(std::max<size_t>(scratch.size(), heads));
    const auto block = [&](long head) {
        return Block<Number, PAIRS>{step, scratch[head], item.first_head + head, item.first, item.last};
    };
    for (long head = 0; head < heads; ++head) {
        auto own = block(head);
        own.start();
        for (const int64_t place : reads) {
            const Read& read = step.reads[place];
            if (own.streams(read)) continue;
            const Span seen = own.look(read);
            for (int64_t key = seen.start; key < seen.end; key += KEYS)
                own.tiles(read, key, std::min<int64_t>(KEYS, seen.end - key));
        }
    }
    for (const int64_t place : reads) {  // all heads of a key together: they lie side by side
        const Read& read = step.reads[place];
        if (!block(0).streams(read)) continue;
        Span seen{};
        for (long head = 0; head < heads; ++head) seen = block(head).look(read);
        for (int64_t key = seen.start; key < seen.end; key += KEYS)
            for (long head = 0; head < heads; ++head)
                block(head).stream(read, key, std::min<int64_t>(KEYS, seen.end - key));
    }
    for (long head = 0; head < heads; ++head) block(head).finish();
}

template <typename Number, bool PAIRS>
void attend(const Step& step, const Blocks& blocks) {
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t token = 0; token < step.tokens; ++token) write<Number>(step, token);
#pragma omp for schedule(dynamic, 1)
        for (int64_t place = blocks.items.size() - 1; place >= 0; --place) {  // of a long chunk the
            const Blocks::Item& item = blocks.items[place];                   // later see more
            attend<Number, PAIRS>(step, item, blocks.reads[item.block]);
        }
    }
}
