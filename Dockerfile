FROM node:26-slim AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci
COPY . .
RUN npm run bundle

FROM node:26-slim AS dependencies
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# Types, source maps and documents of packages are not read at run time. Their licences stay.
RUN npm ci --omit=dev && find node_modules -type f \
  \( -name '*.map' -o -name '*.d.ts' -o -name '*.d.mts' -o -name '*.d.cts' -o -iname 'readme*' -o -iname 'changelog*' \) -delete

# The service at its final path, with the compiled code of what it loads at its start.
FROM node:26-slim AS app
WORKDIR /app
COPY package.json ./
COPY --from=dependencies /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
RUN NODE_ENV=production DEMO=true NODE_COMPILE_CACHE=/app/.compile-cache node dist/bundle/server.js >/dev/null & \
  pid=$!; for i in $(seq 300); do node dist/scripts/healthcheck.js $pid && break; sleep 0.2; done; kill $pid && wait $pid
# Node and the libraries that it loads, a user, and a folder for temporary files.
RUN mkdir -p /rootfs/etc /rootfs/tmp /rootfs/usr/local/bin && chmod 1777 /rootfs/tmp \
  && for file in $(ldd /usr/local/bin/node | grep -o '/[^ ]*'); do cp -L --parents "$file" /rootfs; done \
  && cp /usr/local/bin/node /rootfs/usr/local/bin/ \
  && echo 'node:x:1000:1000::/app:/sbin/nologin' > /rootfs/etc/passwd && echo 'node:x:1000:' > /rootfs/etc/group

# No shell and no package manager.
FROM scratch
# One arena of malloc saves 10 MB: nearly all allocations are those of one thread.
ENV MALLOC_ARENA_MAX=1
ENV NODE_ENV=production HOST=0.0.0.0 PORT=3000 PATH=/usr/local/bin NODE_COMPILE_CACHE=/app/.compile-cache
WORKDIR /app
COPY --from=app /rootfs /
COPY --from=app /app ./
USER 1000:1000
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
  CMD ["node", "dist/scripts/healthcheck.js"]
CMD ["node", "dist/bundle/server.js"]
