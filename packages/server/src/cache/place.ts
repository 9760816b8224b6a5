import { homedir } from "node:os"
import { join, resolve } from "node:path"

type Environment = Readonly<Record<string, string | undefined>>

/** llama.cpp's cache folder; common.cpp `fs_get_cache_directory` (v0.5.0). */
const llamaCache = (environment: Environment, platform: string): string => {
  if (environment.LLAMA_CACHE) return environment.LLAMA_CACHE
  const home = environment.HOME || homedir()
  switch (platform) {
    case "darwin":
      return join(home, "Library", "Caches", "llama.cpp")
    case "win32":
      return join(environment.LOCALAPPDATA ?? join(home, "AppData", "Local"), "llama.cpp")
    default:
      return join(environment.XDG_CACHE_HOME || join(home, ".cache"), "llama.cpp")
  }
}

/**
 * Folder of the tensor cache, absolute: `wanted`, else the one that upstream's rpc-server uses, `rpc` under
 * llama.cpp's cache folder.
 */
export const cacheFolder = (
  wanted?: string,
  environment: Environment = process.env,
  platform: string = process.platform,
): string => resolve(wanted ?? join(llamaCache(environment, platform), "rpc"))
