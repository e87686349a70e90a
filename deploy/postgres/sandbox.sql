-- sandbox rows have their own database
CREATE DATABASE sandbox;
