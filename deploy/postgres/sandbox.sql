-- invented rows have a database of their own
CREATE DATABASE sandbox;
