# André
FROM a
RUN a \
 # André
 b
