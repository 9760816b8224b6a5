const names: { readonly [status: number]: string } = {
  1: "aborted",
  254: "out of memory",
  255: "failed",
}

/** What a server's answer to GRAPH_COMPUTE says, for messages: `ggml_status` as a byte. */
export const describeGraphStatus = (status: number): string =>
  `the computation ended there with status ${status}${status in names ? ` (${names[status]})` : ""}`
