import { expect, test } from "bun:test"
import { driverCaches } from "./sandbox.ts"

test("drivers keep what they compile in folders of their own, which the environment may name", () => {
  expect(driverCaches([], {}, "/home/a")).toEqual([])
  expect(driverCaches(["nvidia0", "nvidiactl"], {}, "/home/a")).toEqual([
    "/home/a/.nv",
    "/home/a/.cache/nvidia",
  ])
  const named = { XDG_CACHE_HOME: "/c", CUDA_CACHE_PATH: "/cuda", MESA_SHADER_CACHE_DIR: "/mesa" }
  expect(driverCaches(["nvidiactl", "dri", "kfd"], named, "/home/a")).toEqual([
    "/cuda",
    "/c/nvidia",
    "/mesa",
    "/c/mesa_shader_cache_db",
    "/c/comgr",
  ])
})
