/** How a tensor may lie in memory: what its kernel makes of strides. Each is a case of the one before it. */
export type Layout =
  /** Anyhow: the kernel multiplies every index with its stride. */
  | "strided"
  /** `nb[0]` is the size of an element (of a block): the kernel takes rows for dense, and looks at the other strides. */
  | "rows"
  /** And row follows upon row at `nb[1]` in all dimensions: the kernel counts rows. */
  | "pitched"
  /** And nothing lies between: the kernel counts elements, or rows by `nb[1]`. */
  | "packed"
  /** And every stride is that of a new tensor, also one that leads nowhere: the kernel takes strides for sizes. */
  | "exact"
  /**
   * `ggml_is_contiguous`: the same, but a stride that is only multiplied with 0 may be anything, `nb[0]` too. For kernels that
   * count elements, or multiply every index with its stride.
   */
  | "contiguous"
