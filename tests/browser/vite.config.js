import { defineConfig } from "vite";

// One page, built once by `make test`; the tests serve the folder themselves.
export default defineConfig({
  root: "src",
  build: { outDir: "../dist", emptyOutDir: true, chunkSizeWarningLimit: 2000 },
});
