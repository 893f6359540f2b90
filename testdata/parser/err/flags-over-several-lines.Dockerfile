FROM a
COPY --chown=1 \
  # comment
  --chonw=2 \
  a b
