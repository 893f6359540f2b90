mkdir .dockerignore; echo f>f
