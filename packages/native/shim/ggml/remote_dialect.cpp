// What a server of another version can compute, and how it says so.

#include "remote_dialect.h"
#include "ggml-backend-impl.h"

namespace {

int number_in(const std::vector<int16_t> & table, int number) {
    return number >= 0 && size_t(number) < table.size() ? table[size_t(number)] : -1;
}

// Only say how their source's data is looked at.
bool computes_nothing(const ggml_tensor * tensor) {
    switch (tensor->op) {
        case GGML_OP_NONE:
        case GGML_OP_RESHAPE:
        case GGML_OP_VIEW:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE:
            return true;
        default:
            return false;
    }
}

// These carry host function pointers.
bool has_callback(ggml_op op) {
    return op == GGML_OP_MAP_CUSTOM1 || op == GGML_OP_MAP_CUSTOM2 || op == GGML_OP_MAP_CUSTOM3 || op == GGML_OP_CUSTOM;
}

// The number of an operation's kind; 0 for operations without kinds.
int kind_of(const remote_dialect & dialect, const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_UNARY:
            return number_in(dialect.unary_ops, op->op_params[0]);
        case GGML_OP_GLU:
            return number_in(dialect.glu_ops, op->op_params[0]);
        default:
            return 0;
    }
}

} // namespace

bool remote_dialect::has_number(const ggml_tensor * op) const {
    return computes_nothing(op) || (number_in(ops, op->op) >= 0 && kind_of(*this, op) >= 0);
}

bool remote_dialect::supports(const ggml_tensor * op) const {
    if (has_callback(op->op) || !has_number(op) || number_in(types, op->type) <= 0) {
        return false;
    }
    for (const ggml_tensor * source : op->src) {
        if (source != nullptr && number_in(types, source->type) <= 0) {
            return false;
        }
    }
    for (const source_limit & rule : source_limits) {
        if (rule.op == uint32_t(op->op)) {
            const ggml_tensor * source = op->src[rule.source];
            if (source == nullptr || (rule.type != any_type && rule.type != uint32_t(source->type))) {
                return false;
            }
        }
    }
    for (const limit & rule : limits) {
        if (rule.op == uint32_t(op->op)) {
            const uint32_t value = uint32_t(op->op_params[rule.slot]) & rule.mask;
            if (value < rule.min || value > rule.max) {
                return false;
            }
        }
    }
    return true;
}

void remote_dialect::translate(const ggml_tensor * tensor, tensor_record & record) const {
    const int number = number_in(ops, tensor->op);
    const int kind   = kind_of(*this, tensor);
    if (number < 0 || kind < 0) {
        record.op = GGML_OP_NONE;
        return;
    }
    record.op = uint32_t(number);
    if (tensor->op == GGML_OP_UNARY || tensor->op == GGML_OP_GLU) {
        record.op_params[0] = kind;
    }
}

// As upstream's client, ggml-rpc.cpp buffer_init_tensor.
bool remote_dialect::may_be_padded(const ggml_tensor * tensor) const {
    return ggml_is_quantized(tensor->type) && tensor->ne[0] % quantized_row_multiple != 0 && tensor->view_src == nullptr;
}

bool remote_dialect::may_expand(ggml_op op) const {
    return number_in(expanding_ops, op) > 0 && ggml_op_alloc_size_may_expand(op);
}
