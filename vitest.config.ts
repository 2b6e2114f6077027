import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

const src = (path: string) => fileURLToPath(new URL(`./src/${path}`, import.meta.url))

export default defineConfig({
  resolve: {
    alias: [
      { find: /^jobsd$/, replacement: src("index.ts") },
      { find: /^jobsd\/(.*)$/, replacement: src("$1.ts") }
    ]
  },
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: ["test/support/servers.ts"],
    // tests wait more than they work
    maxWorkers: 3,
    testTimeout: 30_000,
    hookTimeout: 60_000
  }
})
