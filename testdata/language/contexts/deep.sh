mkdir -p t/b/c
echo>t/b/c/f
chmod 777 t/b t/b/c
