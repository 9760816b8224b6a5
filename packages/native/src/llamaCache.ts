import { homedir } from "node:os"
import { join } from "node:path"

/** llama.cpp's cache folder; common.cpp `fs_get_cache_directory` (v0.5.0). */
export const llamaCacheFolder = (
  environment: Readonly<Record<string, string | undefined>> = process.env,
  platform: string = process.platform,
): string => {
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
