/**
 * Architectures whose graphs put out the first tokens of a batch, whichever were asked for (llama.cpp v0.5.0,
 * src/models/cogvlm.cpp, which has no `inp_out_ids`): they are right where all are.
 */
export const allTokensOut: ReadonlySet<string> = new Set(["cogvlm"])
