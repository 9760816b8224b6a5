import { cstring, record, u32, type ValueOf } from "../../codec/record.ts"
import { RpcTensor } from "../../codec/tensor.ts"

/** COMM_INIT request; ggml-rpc.cpp `rpc_msg_comm_init_req` (8.0.0): links two servers that add up partial results. */
export const CommInitRequest = record("CommInitRequest", {
  device: u32,
  /** 0 listens, 1 dials. */
  rank: u32,
  /** Servers in the link: 2. */
  worldSize: u32,
  port: u32,
  /** Where rank 1 finds rank 0, as the client wrote it; empty for rank 0. */
  host: cstring(64),
})
export type CommInitRequest = ValueOf<typeof CommInitRequest>

/** COMM_ALLREDUCE request; ggml-rpc.cpp `rpc_msg_comm_allreduce_req` (8.0.0). */
export const CommAllReduceRequest = record("CommAllReduceRequest", {
  device: u32,
  tensor: RpcTensor,
})
export type CommAllReduceRequest = ValueOf<typeof CommAllReduceRequest>
