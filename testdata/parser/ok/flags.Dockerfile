FROM --platform=$BUILDPLATFORM a
COPY --chown="a b":c --link --exclude='x y' --exclude=z\ w --parents=FALSE -- --src /dst
RUN --network=none -- --x
RUN --mount=type=bind,source=a\ b,target=/b "--no-flag" x
COPY --from= --chown= a b
