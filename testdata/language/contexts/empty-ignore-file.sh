>.dockerignore
echo>a
