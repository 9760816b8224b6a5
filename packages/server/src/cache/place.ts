import { join, resolve } from "node:path"
import { llamaCacheFolder } from "@ggml-rpc/native/bindings"

/**
 * Folder of the tensor cache, absolute: `wanted`, else the one that upstream's rpc-server uses, `rpc` under
 * llama.cpp's cache folder.
 */
export const cacheFolder = (
  wanted?: string,
  environment: Readonly<Record<string, string | undefined>> = process.env,
  platform: string = process.platform,
): string => resolve(wanted ?? join(llamaCacheFolder(environment, platform), "rpc"))
