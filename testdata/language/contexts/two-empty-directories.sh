mkdir -m 700 e f
