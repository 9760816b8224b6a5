/**
 * Settings of the runtime for every worker: their heaps are small, and threads that help a large one take a core from
 * graphs that are computed at the time.
 */
export const smallHeap = {
  // A thread that takes memory for a growing heap ahead of time: 1.3 ms of a small model's load of 14.
  BUN_JSC_useWarmUpMarkedBlocks: "0",
  // A thread that gives freed memory of the heap back, for some megabytes: 2 % of a small prompt. ggml's buffers are
  // none of it.
  MIMALLOC_PURGE_DELAY: "-1",
} as const
