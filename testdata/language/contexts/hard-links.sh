mkdir -p src/d
echo x>src/x
ln src/x src/y
ln src/x src/d/z
ln src/x outside
