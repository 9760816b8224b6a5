/** Whether everything is told: what libraries log, every request, and the stack of an error. */
export const isDebug = (): boolean => process.env.GGML_RPC_DEBUG === "1"
