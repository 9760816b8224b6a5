#pragma once

#include "tensor_record.h"

// Fills a record from a tensor, as the server of `connection` may see it: a buffer of another server is 0, for its
// handle means nothing there. connection < 0: keep the handle whichever connection the buffer belongs to.
void record_from_tensor(const ggml_tensor * tensor, int connection, tensor_record & record);
