/**
 * Tiny models of every architecture: upstream's `test-llama-archs -o DIR -s 42` writes 127 of them,
 * one or two per architecture, 880 MB, within seconds. Their vocabulary is upstream's "test" kind: no
 * text, but ids, all of 0 to 127 valid in each model.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import { ensurePeers } from "./peers.ts"
import { runProcess } from "./process.ts"

export interface ArchitectureModel {
  readonly path: string
  /** Architecture, and dense or moe: `llama-moe`. */
  readonly name: string
  /**
   * Upstream evaluates it with llama_encode followed by llama_decode (test-llama-archs.cpp): the
   * diffusion models, whose attention is not causal, so the whole prompt must fit one micro batch.
   */
  readonly encode: boolean
}

/** Upstream's comparison of two devices: normalized mean squared error of all logits of 128 tokens. */
export const upstreamTolerance = 1e-4

const encodedModels = new Set(["dream-dense", "llada-dense", "llada-moe-moe", "rnd1-moe"])

/** The models, written at the first call and kept beside the peers. */
export const ensureArchitectureModels = async (): Promise<ReadonlyArray<ArchitectureModel>> => {
  const paths = await ensurePeers(["test-llama-archs"])
  const program = paths["test-llama-archs"]
  const root = join(dirname(program), "..", "..")
  // The tool's folder carries the hash of its inputs.
  const folder = join(root, basename(dirname(program)).replace("test-llama-archs", "models"))
  if (!existsSync(folder)) await writeModels(program, root, folder)
  return readdirSync(folder)
    .filter((name) => name.endsWith(".gguf"))
    .sort()
    .map((file) => {
      const name = basename(file, ".gguf")
      return { path: join(folder, file), name, encode: encodedModels.has(name) }
    })
}

const writeModels = async (program: string, root: string, folder: string): Promise<void> => {
  mkdirSync(root, { recursive: true })
  const work = mkdtempSync(join(root, ".models-"))
  try {
    const result = await runProcess([program, "-o", work, "-s", "42"], { timeoutMs: 300_000 })
    if (result.exitCode !== 0) {
      throw new Error(`test-llama-archs failed (exit code ${result.exitCode}):\n${result.stderr}`)
    }
    renameSync(work, folder)
  } catch (error) {
    // Another run was faster; its models come from the same tool and seed.
    if (!existsSync(folder)) throw error
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}
