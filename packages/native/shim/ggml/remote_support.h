#pragma once

#include "tensor_record.h"

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

struct remote_server;

// What a server's device really supports, asked of the server node by node and remembered. What does not depend on a node's
// identity is its key: operation, parameters, and types, shapes and strides of result and sources.
struct remote_support {
    enum class answer { yes, no, unknown };

    // What is known of nodes that are like this one. Outside a measurement a node counts as known when all nodes that
    // differ from it by the lengths of batches and caches alone got one answer.
    answer find(const ggml_tensor * op) const;

    // Adds a question; until it is answered the node counts as supported.
    void ask(const ggml_tensor * op, const remote_server & server);

    // Takes a byte for each question, 1 or 0, in order; returns how many are 0.
    int take(const uint8_t * answers);

    // Drops the questions: nobody answers them.
    void drop_questions();

    // Whether questions may wait for more.
    bool may_gather() const;

    // Counts a node that the device does not support; is_held: no other device can compute it. Whether to say all the same
    // that it does.
    bool note_refusal(const ggml_tensor * op, bool is_held);

    // The server can be asked.
    bool can_ask = false;

    // A model is measured: nothing of it is computed. At first questions gather, and the measurement is repeated when an
    // answer is not what it took for granted.
    bool measures = false;
    bool gathers  = false;
    // Refused since the measurement began, and the last operation that no other device can compute; -1: none.
    int refusals = 0;
    int stuck_op = -1;

    // The questions: ids of nodes, and records of them and of their sources.
    std::vector<uint64_t>      nodes;
    std::vector<tensor_record> records;

private:
    // Bits of `alike`.
    static constexpr uint8_t some_no  = 1;
    static constexpr uint8_t some_yes = 2;

    struct question {
        uint64_t key;
        uint64_t alike;
    };

    std::vector<question> questions;
    // Places in `records` of the sources of the questions, by a hash of type, shape and strides.
    std::unordered_map<uint64_t, size_t> sources;
    // Whether it is supported, by the key of a node.
    std::unordered_map<uint64_t, bool> known;
    // Which answers there were, by the key without lengths.
    std::unordered_map<uint64_t, uint8_t> alike;
};
