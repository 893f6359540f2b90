mkdir -p m/d
echo f>m/f
chmod 600 m/f
chmod 700 m/d
