#pragma once

// A function that bun:ffi calls by its name. Everything else is hidden: the three libraries share a process.
#define API extern "C" __attribute__((visibility("default")))
