// What a server's device supports, by asking it.

#include "remote_support.h"
#include "api.h"
#include "remote_device.h"
#include "ggml-impl.h"

#include <cstring>

namespace {

uint64_t mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
    return hash ^ (hash >> 32);
}

uint64_t mix_op(const ggml_tensor * op) {
    uint64_t hash = mix(0, uint64_t(op->op));
    for (size_t i = 0; i < sizeof(op->op_params) / sizeof(uint64_t); i++) {
        uint64_t word;
        memcpy(&word, reinterpret_cast<const char *>(op->op_params) + i * sizeof(word), sizeof(word));
        hash = mix(hash, word);
    }
    return hash;
}

// Type, shape and strides.
uint64_t mix_exactly(uint64_t hash, const ggml_tensor * tensor) {
    hash = mix(hash, uint64_t(tensor->type));
    for (int i = 0; i < GGML_MAX_DIMS; i++) {
        hash = mix(hash, uint64_t(tensor->ne[i]));
        hash = mix(hash, uint64_t(tensor->nb[i]));
    }
    return hash;
}

// The length of rows as far as backends care: that of a head or of a state is itself. Multiples of 256 are mostly those of
// caches, and alike but for operations that have to keep a row where it is short.
uint64_t row_length(const ggml_tensor * op, int source, int64_t length) {
    const bool is_head = op->op == GGML_OP_FLASH_ATTN_EXT && source <= 2;
    if (is_head || length % 256 != 0) {
        return uint64_t(length);
    }
    uint64_t bound = 256;
    if (op->op == GGML_OP_ARGSORT || op->op == GGML_OP_TOP_K) {
        while (bound < uint64_t(length)) {
            bound *= 2;
        }
    }
    return bound;
}

// Type, shape and strides without what the length of a batch or of a cache decides: whether there are several of something,
// and the order of the strides. `source` is the tensor's place among those of the node, -1: it is the result.
uint64_t mix_alike(uint64_t hash, const ggml_tensor * op, int source, const ggml_tensor * tensor) {
    hash = mix(hash, uint64_t(tensor->type));
    if (tensor->type == GGML_TYPE_I32 || tensor->type == GGML_TYPE_I64) {
        // Positions and numbers of rows.
        return mix(hash, ggml_is_contiguous(tensor) ? 1 : 0);
    }
    hash = mix(hash, row_length(op, source, tensor->ne[0]));
    uint64_t traits = 0;
    for (int i = 1; i < GGML_MAX_DIMS; i++) {
        traits = traits * 8 + (tensor->ne[i] > 1 ? 4 : 0) + (tensor->nb[i] < tensor->nb[i - 1] ? 2 : 0) + (tensor->nb[i] % 16 == 0 ? 1 : 0);
    }
    traits = traits * 4 + (ggml_is_contiguous(tensor) ? 2 : 0) + (ggml_is_contiguous_rows(tensor) ? 1 : 0);
    return mix(hash, traits);
}

uint64_t key_of(const ggml_tensor * op) {
    uint64_t hash = mix_exactly(mix_op(op), op);
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        if (op->src[i] != nullptr) {
            hash = mix_exactly(mix(hash, uint64_t(i)), op->src[i]);
        }
    }
    return hash;
}

// The same for nodes that differ by the lengths of batches and caches alone.
uint64_t alike_key_of(const ggml_tensor * op) {
    uint64_t hash = mix_alike(mix_op(op), op, -1, op);
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        if (op->src[i] != nullptr) {
            hash = mix_alike(mix(hash, uint64_t(i)), op, i, op->src[i]);
        }
    }
    return hash;
}

} // namespace

remote_support::answer remote_support::find(const ggml_tensor * op) const {
    const auto found = known.find(key_of(op));
    if (found != known.end()) {
        return found->second ? answer::yes : answer::no;
    }
    if (gathers) {
        return answer::unknown;
    }
    const auto similar = alike.find(alike_key_of(op));
    if (similar == alike.end() || similar->second == (some_no | some_yes)) {
        return answer::unknown;
    }
    return similar->second == some_yes ? answer::yes : answer::no;
}

void remote_support::ask(const ggml_tensor * op, const remote_server & server) {
    tensor_record node;
    record_from_tensor(op, server, node);
    node.buffer = node.data = node.view_src = node.view_offs = 0;
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        const ggml_tensor * source = op->src[i];
        if (source == nullptr || source == op) {
            continue;
        }
        const auto [place, is_new] = sources.emplace(mix_exactly(0, source), records.size());
        if (is_new) {
            tensor_record record;
            record_from_tensor(source, server, record);
            record.id = records.size() + 1;
            record.op = GGML_OP_NONE;
            record.buffer = record.data = record.view_src = record.view_offs = 0;
            memset(record.op_params, 0, sizeof(record.op_params));
            memset(record.src, 0, sizeof(record.src));
            records.push_back(record);
        }
        node.src[i] = place->second + 1;
    }
    node.id = records.size() + 1;
    // A cast names itself.
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        if (op->src[i] == op) {
            node.src[i] = node.id;
        }
    }
    records.push_back(node);
    nodes.push_back(node.id);
    const uint64_t key = key_of(op);
    questions.push_back({key, alike_key_of(op)});
    known[key] = true;
}

int remote_support::take(const uint8_t * answers) {
    int refused = 0;
    for (size_t i = 0; i < questions.size(); i++) {
        const bool is_supported = answers[i] != 0;
        known[questions[i].key] = is_supported;
        alike[questions[i].alike] |= is_supported ? some_yes : some_no;
        refused += is_supported ? 0 : 1;
    }
    questions.clear();
    drop_questions();
    return refused;
}

bool remote_support::may_gather() const {
    // What a request takes (packages/protocol/src/extension.ts) is 3400 records, each perhaps a node.
    return gathers && records.size() < 3000;
}

bool remote_support::note_refusal(const ggml_tensor * op, bool is_held) {
    refusals++;
    if (!measures || !is_held) {
        return false;
    }
    stuck_op = int(op->op);
    return true;
}

void remote_support::drop_questions() {
    for (const question & dropped : questions) {
        known.erase(dropped.key);
    }
    questions.clear();
    nodes.clear();
    records.clear();
    sources.clear();
}

// Whether the server can be asked what the device supports.
API void gs_remote_support_enable(ggml_backend_dev_t device, int can_ask) {
    server_of(device).support.can_ask = can_ask != 0;
}

// A model is measured: 1 from here on, and questions gather; 2 still, and each is asked at once; 0 no more.
API void gs_remote_support_measure(ggml_backend_dev_t device, int phase) {
    remote_support & support = server_of(device).support;
    support.drop_questions();
    support.measures = phase != 0;
    support.gathers  = phase == 1;
    support.refusals = 0;
    support.stuck_op = -1;
}

// Fills: how often the device refused a node in this measurement, and an operation that no other device could compute, or -1.
API void gs_remote_support_measured(ggml_backend_dev_t device, int32_t * out) {
    const remote_support & support = server_of(device).support;
    out[0] = support.refusals;
    out[1] = support.stuck_op;
}

// The questions that gathered: fills how many nodes there are, the address of their ids, how many records, and theirs.
API void gs_remote_support_questions(ggml_backend_dev_t device, double * out) {
    const remote_support & support = server_of(device).support;
    out[0] = double(support.nodes.size());
    out[1] = double(reinterpret_cast<uintptr_t>(support.nodes.data()));
    out[2] = double(support.records.size());
    out[3] = double(reinterpret_cast<uintptr_t>(support.records.data()));
}

// Takes the answers, a byte a question, or nullptr: there are none. Returns how many nodes are not supported.
API int gs_remote_support_answer(ggml_backend_dev_t device, const uint8_t * answers) {
    remote_support & support = server_of(device).support;
    if (answers != nullptr) {
        return support.take(answers);
    }
    support.drop_questions();
    return 0;
}
