/** Asks llama's own grammar, byte by byte, whether it takes a text: over a vocabulary whose tokens are the bytes. */
import { dlopen, type Pointer, ptr } from "bun:ffi"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { writeGguf } from "@ggml-rpc/gguf"
import { Llama, librarySet } from "@ggml-rpc/native"
import * as Effect from "effect/Effect"
import { numberedVocabulary, vocabularyMetadata } from "../models/vocabulary.ts"

/** Marks come before the bytes; the text's end is one of them. */
const [END, FIRST_BYTE, TOKEN_COUNT] = [2, 3, 259]

export interface GrammarWalk {
  /** Whether the grammar's texts have this one; `prefix`: whether one of them begins with it. */
  readonly takes: (grammar: string, text: string) => boolean
  readonly takesPrefix: (grammar: string, text: string) => boolean
}

const open = () =>
  dlopen(librarySet().llama, {
    llama_model_get_vocab: { args: ["ptr"], returns: "ptr" },
    llama_sampler_init_grammar: { args: ["ptr", "ptr", "ptr"], returns: "ptr" },
    llama_sampler_apply: { args: ["ptr", "ptr"], returns: "void" },
    llama_sampler_accept: { args: ["ptr", "i32"], returns: "void" },
    llama_sampler_free: { args: ["ptr"], returns: "void" },
  }).symbols

const cString = (text: string): Uint8Array => new TextEncoder().encode(`${text}\0`)

/** A vocabulary in a file of its own, as long as the scope is open. */
export const grammarWalk = Effect.gen(function* () {
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "ggml-rpc-grammar-"))),
    (made) => Effect.sync(() => rmSync(made, { recursive: true, force: true })),
  )
  const path = join(folder, "bytes.gguf")
  const metadata = vocabularyMetadata(numberedVocabulary(TOKEN_COUNT))
  yield* Effect.sync(() =>
    writeGguf(path, {
      metadata: [["general.architecture", { type: "string", value: "llama" }], ...metadata],
      tensors: [],
    }),
  )
  const { loadModel } = yield* Llama.Llama
  const model = yield* loadModel(path, { vocabOnly: true })
  const llama = open()
  const vocab = llama.llama_model_get_vocab(model.address as Pointer)
  const reads = (grammar: string, text: string, isWhole: boolean): boolean => {
    const sampler = llama.llama_sampler_init_grammar(vocab, cString(grammar), cString("root"))
    if (sampler === null || Number(sampler) === 0) throw new Error(`no grammar:\n${grammar}`)
    try {
      for (const byte of new TextEncoder().encode(text)) {
        const token = FIRST_BYTE + byte
        if (!allows(llama, sampler as Pointer, token)) return false
        llama.llama_sampler_accept(sampler as Pointer, token)
      }
      return !isWhole || allows(llama, sampler as Pointer, END)
    } finally {
      llama.llama_sampler_free(sampler as Pointer)
    }
  }
  const walk: GrammarWalk = {
    takes: (grammar, text) => reads(grammar, text, true),
    takesPrefix: (grammar, text) => reads(grammar, text, false),
  }
  return walk
})

/** Gives the grammar one candidate, and looks whether its logit is still there. */
const allows = (llama: ReturnType<typeof open>, sampler: Pointer, token: number): boolean => {
  // llama_token_data: int32 id, float logit, float p.
  const data = new DataView(new ArrayBuffer(12))
  data.setInt32(0, token, true)
  // llama_token_data_array: data, size, selected, sorted.
  const array = new DataView(new ArrayBuffer(32))
  array.setBigUint64(0, BigInt(ptr(new Uint8Array(data.buffer))), true)
  array.setBigUint64(8, 1n, true)
  array.setBigInt64(16, -1n, true)
  llama.llama_sampler_apply(sampler, new Uint8Array(array.buffer))
  return data.getFloat32(4, true) !== Number.NEGATIVE_INFINITY
}
