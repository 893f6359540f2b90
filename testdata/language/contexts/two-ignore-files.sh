echo a>a; echo b>b; echo "b" > Dockerfile.dockerignore; echo a > .dockerignore
