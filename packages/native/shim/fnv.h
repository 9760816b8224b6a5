#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

// FNV-1a-64, upstream's hash of weights (ggml-rpc.cpp `fnv_hash`, 7.0.0). Each byte waits for the multiplication of the one before
// it, so that one block takes four cycles a byte; several blocks at once take one.

constexpr uint64_t kFnvBasis = 0xcbf29ce484222325ull;
constexpr uint64_t kFnvPrime = 0x100000001b3ull;

inline uint64_t fnv_of(const uint8_t * data, size_t size, uint64_t hash = kFnvBasis) {
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ data[i]) * kFnvPrime;
    }
    return hash;
}

// A block that is being hashed; its hash goes to *result.
struct fnv_lane {
    const uint8_t * data;
    size_t          size;
    uint64_t        hash;
    uint64_t *      result;
};

class fnv_lanes {
  public:
    static constexpr size_t kLanes = 4;

    // next fills a lane with another block; false: there is none.
    template <typename Next> void run(Next next) {
        size_t count = 0;
        for (bool more = true;;) {
            while (more && count < kLanes && (more = next(lanes_[count]))) {
                count++;
            }
            if (count == 0) {
                return;
            }
            size_t size = lanes_[0].size;
            for (size_t i = 1; i < count; i++) {
                size = std::min(size, lanes_[i].size);
            }
            advance(count, size);
            count = drop_finished(count);
        }
    }

  private:
    void advance(size_t count, size_t size) {
        switch (count) {
            case 4: step<4>(size); break;
            case 3: step<3>(size); break;
            case 2: step<2>(size); break;
            default: step<1>(size); break;
        }
    }

    template <size_t N> void step(size_t size) {
        const uint8_t * data[N];
        uint64_t        hash[N];
        for (size_t i = 0; i < N; i++) {
            data[i] = lanes_[i].data;
            hash[i] = lanes_[i].hash;
        }
        for (size_t at = 0; at < size; at++) {
            for (size_t i = 0; i < N; i++) {
                hash[i] = (hash[i] ^ data[i][at]) * kFnvPrime;
            }
        }
        for (size_t i = 0; i < N; i++) {
            lanes_[i].data += size;
            lanes_[i].size -= size;
            lanes_[i].hash = hash[i];
        }
    }

    size_t drop_finished(size_t count) {
        size_t kept = 0;
        for (size_t i = 0; i < count; i++) {
            if (lanes_[i].size == 0) {
                *lanes_[i].result = lanes_[i].hash;
            } else {
                lanes_[kept++] = lanes_[i];
            }
        }
        return kept;
    }

    fnv_lane lanes_[kLanes] = {};
};
