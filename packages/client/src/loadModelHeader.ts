import { type GgufError, type GgufFile, ggufInteger, ggufString } from "@ggml-rpc/gguf"
import * as Effect from "effect/Effect"
import { ModelError } from "./errors.ts"
import { loadGguf } from "./loadGguf.ts"

/** llama.cpp's `LLAMA_MAX_LAYERS` (llama-hparams.h, v0.5.0), on which it ends the process. */
const MAX_LAYER_COUNT = 512

/** The header of a file that is a model, as far as a header tells: what is none is told before a server is asked anything. */
export const loadModelHeader = (path: string): Effect.Effect<GgufFile, GgufError | ModelError> =>
  Effect.flatMap(loadGguf(path), (gguf) => {
    const problem = whyNoModel(gguf) ?? impossibleValue(gguf)
    return problem === undefined
      ? Effect.succeed(gguf)
      : Effect.fail(new ModelError({ path, during: "load", detail: problem }))
  })

/** Files that are made for a model and are none, by `general.type` or `general.architecture`. */
const companions: Readonly<Record<string, string>> = {
  adapter:
    "it is an adapter (LoRA), which changes a model: give the model itself, and this with --lora.",
  mmproj:
    "it is a vision or audio projector (mmproj), made for use beside a model; give the model itself.",
  clip: "it is a vision or audio projector (mmproj), made for use beside a model; give the model itself.",
  controlvector: "it is a control vector, which steers a model; give the model itself.",
  imatrix:
    "it is an importance matrix, which only quantizing a model needs; give the model itself.",
}

const whyNoModel = (gguf: GgufFile): string | undefined => {
  const architecture = ggufString(gguf, "general.architecture")
  const found = companions[ggufString(gguf, "general.type") ?? ""] ?? companions[architecture ?? ""]
  if (found !== undefined) return found
  if (architecture === undefined) {
    return "its header names no architecture (general.architecture), so it is no model; or it is damaged: download it again."
  }
  return gguf.tensors.length === 0
    ? "it holds no weights, only a header or a vocabulary; give the file with the weights."
    : undefined
}

/** Values on which llama.cpp ends its process, or whose results are no numbers. */
const impossibleValue = (gguf: GgufFile): string | undefined => {
  const key = `${ggufString(gguf, "general.architecture")}.block_count`
  const layerCount = ggufInteger(gguf, key)
  if (layerCount !== undefined && (layerCount < 1 || layerCount > MAX_LAYER_COUNT)) {
    return impossible(key, layerCount)
  }
  for (const [key, entry] of gguf.metadata) {
    if (entry.type === "array" || !key.endsWith("epsilon")) continue
    const value = Number(entry.value)
    if (!(value >= 0 && Number.isFinite(value))) return impossible(key, value)
  }
  return undefined
}

const impossible = (key: string, value: number): string =>
  `its header says that ${key} is ${value}, which cannot be: it is damaged; download it again.`
